"""Planted rows of results.csv."""


def rows_of(setting, values, *, evaluation="linear", metric="top1", target="label", epoch=10, program="p"):
    """Rows of results.csv for the values by seed of one setting."""
    fixed = {"method": "simclr", "backbone": "vgg11", "dataset": "digits", "transforms": "t", "hue": None}
    measured = {"epoch": epoch, "evaluation": evaluation, "target": target, "metric": metric}
    return [
        {"run": f"{program}/{setting},seed={seed}", "seed": seed, **fixed, **setting, **measured, "value": value}
        for seed, value in values.items()
    ]
