"""What a representation holds, measured in numpy: arrays in, arrays and plain rows out.

knn         weighted nearest neighbours
clustering  K-means, adjusted mutual information, silhouette
scores      top-1, top-5 and per-class figures from a matrix of class scores
measure     the above as rows of the result tables
results     the two result tables on disk
"""
