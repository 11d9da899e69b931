"""What profiles of treated cells tell: the mechanism of action by the nearest treatment (NSC, NSCB), and the plate or batch.

NSC is the test of V. Ljosa et al. (Journal of Biomolecular Screening 18, 2013), NSCB that of D. M. Ando, C. McLean and M. Berndl
(bioRxiv 161422, 2017) and the one that tells: a neighbour from one's own batch may be near for the batch's sake. Figures of crops
are not to be put beside published ones of whole images.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssljax.data.bbbc021.metadata import CONTROL
from ssljax.errors import UserError, unknown
from ssljax.evaluate import profiles
from ssljax.evaluate.arrays import normalized
from ssljax.evaluate.measure import ClassMeasurement, Measurement
from ssljax.evaluate.profiles import Strings, Table, Treatments

Correction = Literal["none", "tvn", "tvn+coral"]
_TIE = 1e-12  # cosines this near are equal: float64's rounding, with room
_FOLDS = 5  # of the cross-validation; scikit-learn's default


class MechanismTest(NamedTuple):
    """One-nearest-neighbour classification of mechanisms.

    Attributes:
      name: "nsc" or "nscb".
      accuracy: the mean of `right`.
      chance: its expectation if each treatment took one of its allowed neighbours at random.
      permuted: the mean accuracy of the same profiles dealt out among the treatments at random; NaN without permutations.
      p_value: the share of such deals (the true one among them) that reach `accuracy`.
      moa: strings [t], the mechanism of each scored treatment.
      right: [t] in [0, 1]: whether its nearest neighbour has it too; of neighbours that tie, their share.
      left_out: why treatments were not scored -> how many.
    """

    name: str
    accuracy: float
    chance: float
    permuted: float
    p_value: float
    moa: Strings
    right: NDArray[np.float64]
    left_out: dict[str, int]


class Predictability(NamedTuple):
    """How well a nuisance, the plate or the batch, can be told from the controls.

    Attributes:
      accuracy: of a logistic regression on held-out sites.
      chance: of always naming the commonest.
      classes: how many plates or batches there are.
      grouped_by: "well" or "site": what is never on both sides of the cross-validation.
    """

    accuracy: float
    chance: float
    classes: int
    grouped_by: str


class ProfileMeasures(NamedTuple):
    """All measures of one table of features; None where the table cannot give one, with the reason in `notes`."""

    nsc: MechanismTest | None
    nscb: MechanismTest | None
    plate: Predictability | None
    batch: Predictability | None
    notes: tuple[str, ...]

    def measurements(self, evaluation: str = "profiles") -> tuple[list[Measurement], list[ClassMeasurement]]:
        """Rows of results.csv and per_class.csv: target moa (nsc, nsc_chance, ...), plate and batch (accuracy, chance)."""
        rows, per_class = [], []
        for test in (self.nsc, self.nscb):
            if test is None:
                continue
            counts = {"treatments": len(test.moa), "mechanisms": len(set(test.moa.tolist()))}
            dealt = {} if np.isnan(test.permuted) else {"permuted": test.permuted, "p_value": test.p_value}
            values = {"chance": test.chance, **dealt, **counts}
            rows.append(Measurement(evaluation, "moa", test.name, test.accuracy))
            rows += [Measurement(evaluation, "moa", f"{test.name}_{key}", float(v)) for key, v in values.items()]
            for moa in np.unique(test.moa).tolist():
                share = float(test.right[test.moa == moa].mean())
                per_class.append(ClassMeasurement(evaluation, "moa", moa, test.name, share))
        for target, told in (("plate", self.plate), ("batch", self.batch)):
            if told is not None:
                rows.append(Measurement(evaluation, target, "accuracy", told.accuracy))
                rows.append(Measurement(evaluation, target, "chance", told.chance))
        return rows, per_class


def measure_profiles(
    features: ArrayLike,
    metadata: Mapping[str, ArrayLike],
    *,
    correction: Correction = "tvn+coral",
    control: str = CONTROL,
    random_state: int = 0,
    permutations: int = 1000,
) -> ProfileMeasures:
    """The whole test, from single cells (or sites: their own means) to NSC, NSCB and what tells plate and batch.

    Args:
      features: [n, d], a row a cell.
      metadata: column name -> [n], see `profiles.table`; `data.cells.columns_of` makes it from BBBC021's names.
      correction: what the site profiles go through before mechanisms are told: nothing, TVN, or TVN and CORAL. Plates and batches
        are told from the profiles before it: CORAL maps each batch in a way of its own, by which noise tells its batch too (in
        512 dimensions and BBBC021's layout 55 % of sites, where chance is 11 %).
      control: the compound of the untreated sites.
      random_state: seed of the permutations and the folds.
      permutations: how many.

    Returns:
      The measures, as `measurements()` rows too.

    Raises:
      UserError: see `profiles.table`, `tvn`, `coral`, `treatment_profiles`.
    """
    sites = profiles.site_profiles(profiles.table(features, metadata))
    return measure_sites(
        sites, correction=correction, control=control, random_state=random_state, permutations=permutations
    )


def corrected(sites: Table, correction: Correction, control: str = CONTROL) -> Table:
    """Site profiles after "none", "tvn" or "tvn+coral"."""
    if correction not in (known := ("none", "tvn", "tvn+coral")):
        raise unknown("correction", correction, known, "profiles")
    if correction == "none":
        return sites
    whitened = profiles.tvn(sites, control)
    return profiles.coral(whitened, control) if correction == "tvn+coral" else whitened


def measure_sites(
    sites: Table,
    *,
    correction: Correction = "tvn+coral",
    control: str = CONTROL,
    random_state: int = 0,
    permutations: int = 1000,
) -> ProfileMeasures:
    """As `measure_profiles`, of site profiles that are made already, such as `profiles.cell_counts`."""
    treatments, notes = profiles.treatment_profiles(corrected(sites, correction, control), control), []
    tests: dict[str, MechanismTest | None] = {}
    for name, test in (("nsc", nsc), ("nscb", nscb)):
        try:
            tests[name] = test(treatments, random_state=random_state, permutations=permutations)
        except UserError as reason:
            tests[name] = None
            notes.append(str(reason))
    told: dict[str, Predictability | None] = {}
    for target in ("plate", "batch"):
        try:
            told[target] = predictability(sites, target, control=control, random_state=random_state)
        except UserError as reason:
            told[target] = None
            notes.append(str(reason))
    return ProfileMeasures(tests["nsc"], tests["nscb"], told["plate"], told["batch"], tuple(notes))


def nsc(treatments: Treatments, *, random_state: int = 0, permutations: int = 1000) -> MechanismTest:
    """Not same compound: the mechanism of the nearest treatment (cosine) that is of another compound.

    Args:
      treatments: one profile a treatment; those of unknown mechanism are left out, as neighbours too.
      random_state: seed of the permutations.
      permutations: how often the profiles are dealt out anew.

    Raises:
      UserError: no treatment of known mechanism, or none of another compound.
    """
    known = treatments.moa != ""
    left_out = {"unknown mechanism": int((~known).sum())}
    return _test("nsc", _chosen(treatments, known), False, left_out, random_state, permutations)


def nscb(treatments: Treatments, *, random_state: int = 0, permutations: int = 1000) -> MechanismTest:
    """Not same compound, nor batch: as `nsc`, with neighbours that were not made in the same batches either.

    Mechanisms that live in one batch have no such neighbour and are left out, as neighbours too. A treatment that was made in
    many batches (BBBC021: Taxol at .3 uM, a second control on every plate) is still allowed to those of one: its median is not
    that batch's. So BBBC021 has 92 treatments and a chance of 6.6 %.

    Args:
      treatments, random_state, permutations: as for `nsc`.

    Raises:
      UserError: no mechanism in two batches, or no treatment with an allowed neighbour.
    """
    known = treatments.moa != ""
    batches: dict[str, set[str]] = {}
    for moa, of in zip(treatments.moa.tolist(), treatments.batches):
        batches.setdefault(moa, set()).update(of)
    across = np.array([len(batches[moa]) > 1 for moa in treatments.moa.tolist()], bool)
    left_out = {"unknown mechanism": int((~known).sum()), "mechanism in one batch": int((known & ~across).sum())}
    return _test("nscb", _chosen(treatments, known & across), True, left_out, random_state, permutations)


def predictability(
    sites: Table, target: Literal["plate", "batch"], *, control: str = CONTROL, random_state: int = 0
) -> Predictability:
    """How well the plate or batch of a control can be told from its features.

    Multinomial logistic regression (scikit-learn's defaults: L2 penalty, C = 1) on standardised features, 5-fold cross-validated.
    Wells, and so sites and cells of one, are never split between the sides; where a plate or batch has but one control well,
    sites are not.

    Args:
      sites: site profiles (or cells), the controls among them.
      target: the column to be told.
      control: the compound of the untreated sites.
      random_state: seed of the folds.

    Raises:
      UserError: no controls, fewer than two plates or batches, or one with a single site of controls.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    own = sites.rows(sites.columns["compound"] == control)
    truth = own.columns[target]
    counts = Counter(truth.tolist())
    if len(counts) < 2:
        raise UserError(
            f"profiles: {target}: the controls '{control}' are of {len(counts)} {target}, expected 2 or more"
        )
    grouped_by, (groups, fewest) = "well", _grouping(own, target, "plate", "well")
    if fewest < 2:
        grouped_by, (groups, fewest) = "site", _grouping(own, target, "plate", "well", "site")
    if fewest < 2:
        raise UserError(f"profiles: {target}: one has a single site of the control '{control}', expected 2 or more")
    folds = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=random_state)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    predicted = cross_val_predict(model, own.features, truth, groups=groups, cv=folds)
    return Predictability(
        float((predicted == truth).mean()), max(counts.values()) / len(truth), len(counts), grouped_by
    )


def _grouping(own: Table, target: str, *keys: str) -> tuple[Strings, int]:
    """The group of each row, told by `keys`, and how many groups the poorest plate or batch has."""
    groups = np.array(["\0".join(key) for key in zip(*(own.columns[name].tolist() for name in keys))], np.str_)
    counts = Counter(name for name, _ in set(zip(own.columns[target].tolist(), groups.tolist())))
    return groups, min(counts.values())


def _chosen(treatments: Treatments, mask: NDArray[np.bool_]) -> Treatments:
    features, compound, concentration, moa, batches = treatments
    kept = tuple(of for of, keep in zip(batches, mask) if keep)
    return Treatments(features[mask], compound[mask], concentration[mask], moa[mask], kept)


def _test(
    name: str, treatments: Treatments, other_batch: bool, left_out: dict[str, int], random_state: int, permutations: int
) -> MechanismTest:
    allowed = treatments.compound[:, None] != treatments.compound
    if other_batch:
        codes = {of: number for number, of in enumerate(dict.fromkeys(treatments.batches))}
        code = np.array([codes[of] for of in treatments.batches], np.intp)
        allowed &= code[:, None] != code
    scored = allowed.any(1)
    if not scored.any():
        other = "compound and batch" if other_batch else "compound"
        raise UserError(
            f"profiles: {name}: of {len(scored)} treatments that may be scored none has a neighbour of another {other}"
        )
    left_out = {**left_out, "no allowed neighbour": int((~scored).sum())}
    same = treatments.moa[:, None] == treatments.moa
    unit = normalized(treatments.features, "l2")
    similarity = unit @ unit.T

    def right(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
        near = np.where(allowed, cosine, -np.inf)[scored]
        nearest = near >= near.max(1, keepdims=True) - _TIE
        return (nearest & same[scored]).sum(1) / nearest.sum(1)

    found = right(similarity)
    rng = np.random.default_rng(random_state)
    deals = (rng.permutation(len(scored)) for _ in range(permutations))
    by_chance = np.array([right(similarity[np.ix_(deal, deal)]).mean() for deal in deals])
    return MechanismTest(
        name,
        float(found.mean()),
        float(((allowed & same).sum(1)[scored] / allowed.sum(1)[scored]).mean()),
        float(by_chance.mean()) if permutations else float("nan"),
        float((1 + (by_chance >= found.mean() - _TIE).sum()) / (1 + permutations)),
        treatments.moa[scored],
        found,
        {reason: count for reason, count in left_out.items() if count},
    )
