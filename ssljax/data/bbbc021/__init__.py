"""BBBC021 as it is published, raw fields and two tables, to single-cell crops.

`metadata` reads and joins the tables, `segment` finds nuclei, `crops` cuts them out in parallel, `quality` shows what came of
it. Ljosa, Sokolnicki and Carpenter, "Annotated high-throughput microscopy image sets for validation", Nature Methods 9 (2012);
images of Caie et al., "High-content phenotypic profiling of drug response signatures across distinct cancer cells",
Molecular Cancer Therapeutics 9 (2010).
"""
