"""What was measured, for people to read: tables, figures and one HTML page.

tables   means and deviations over seeds, as text and CSV, beside published values
figures  t-SNE, sheets of views and of clusters, curves
words    the sentences that say what the numbers mean
page     report.html, from what a finished study left in its workdir
"""
