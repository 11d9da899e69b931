"""What was measured, for people to read: tables, figures and one HTML page.

tables   means and deviations over seeds, as text and CSV, beside published values
figures  t-SNE, sheets of views and of clusters, curves
words    the sentences that say what the numbers mean
page     report.html, from what a finished study left in its workdir
bias     the page's sections on sweeps: what a transformation does to each class (bias_sweeps, bias_words, bias_tables,
         bias_figures and bias_data hold its parts)
joined   one page of the sweeps of several workdirs
"""
