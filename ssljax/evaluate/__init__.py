"""What a representation holds, measured in numpy: arrays in, arrays and plain rows out.

knn         weighted nearest neighbours
clustering  K-means, adjusted mutual information, silhouette
scores      top-1, top-5 and per-class figures from a matrix of class scores
measure     the above as rows of the result tables
profiles    single cells to sites and treatments: TVN, CORAL
mechanisms  the mechanism of action by the nearest treatment (NSC, NSCB); plate and batch told from the controls
results     the two result tables on disk
"""
