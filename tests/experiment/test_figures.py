import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_report import fake_run

from fedjax_rec.evaluate import by_activity
from fedjax_rec.report import figures, fonts
from fedjax_rec.report.reading import PerUser, find_runs, group, labels, read_run
from fedjax_rec.report.targets import Goal, Target
from fedjax_rec.report.tradeoff import tradeoff


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("several")
    for seed in (1, 2, 3):
        fake_run(root / f"a{seed}", seed)
    fake_run(root / "b", 1, 0.55, negatives="train", cohort=40)
    fake_run(root / "c", 1, 0.6, name="fedmf", model="mf", strategy="fedmf", cohort=200)
    return find_runs([root])


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if text.get_visible()}


def overlapping(figure: Figure) -> list[str]:
    """Legends of the figure that cover one of its axes, or texts that leave the page."""
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = [legend.get_window_extent() for legend in figure.legends]
    covered = [f"legend over {ax.get_ylabel()}" for b in boxes for ax in figure.axes
               if b.overlaps(ax.get_window_extent())]  # fmt: skip
    outside = [f"legend outside {b}" for b in boxes if b.x0 < page.x0 or b.x1 > page.x1]
    return covered + outside


def test_draw_all_writes_three_pictures(folder):
    drawn = figures.draw_all(folder)
    assert drawn == [
        folder / "figures" / f"{name}.png"
        for name in ("learning_curve", "per_user", "quality_bytes")
    ]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in drawn)
    before = [path.read_bytes() for path in drawn]
    assert [path.read_bytes() for path in figures.draw_all(folder)] == before
    assert len(list((folder / "figures").iterdir())) == 3


def test_draw_all_without_users_or_bytes(tmp_path):
    fake_run(tmp_path / "run", cohort=0)
    (tmp_path / "run/per_user.npz").unlink()
    assert [path.name for path in figures.draw_all(tmp_path / "run")] == ["learning_curve.png"]
    with pytest.raises(ValueError, match=r"no per_user\.npz"):
        figures.user_distribution(read_run(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"metric='hr@10'\) was measured by no run"):
        figures.quality_against_bytes([read_run(tmp_path / "run")])


def test_learning_curves_show_the_records(folder):
    run = read_run(folder)
    figure = figures.learning_curve([run])
    assert {"HR@10", "NDCG@10", "training loss", "round", "test", "validation"} <= words(figure)
    thin, bold, dot = figure.axes[0].lines
    np.testing.assert_array_equal(bold.get_ydata(), run.column("hr@10"))
    np.testing.assert_array_equal(thin.get_ydata(), run.column("validation_hr@10"))
    assert bold.get_linewidth() > thin.get_linewidth()
    assert dot.get_xydata()[0].tolist() == [
        run.summary["best"]["round"],
        run.summary["best"]["hr@10"],
    ]


def test_seeds_share_a_line_and_a_band(several):
    figure = figures.quality_against_bytes(several)
    [ax] = figure.axes
    bold = [line for line in ax.lines if len(line.get_xdata()) > 1]
    mean = np.mean([run.column("hr@10")[1:] for run in several[:3]], axis=0)
    np.testing.assert_allclose(bold[1].get_ydata(), mean)  # fedmf sorts before pfedrec
    sent = np.cumsum(several[0].column("bytes_up"))[1:] / 2**20
    np.testing.assert_allclose(bold[1].get_xdata(), sent)
    assert len(ax.collections) == 1 and len(bold) == 3
    assert ax.get_xscale() == "log" and "MiB" in ax.get_xlabel()


def test_labels_tell_groups_apart(several):
    assert labels(group(several)) == [
        "fedmf, paper",
        "pfedrec_ml100k, paper (3 seeds)",
        "pfedrec_ml100k, train",
    ]
    assert labels(group(several[:3])) == ["pfedrec_ml100k (3 seeds)"]


def test_nothing_overlaps(several):
    for runs in (several, several[:1], several[3:]):
        for draw in (figures.learning_curve, figures.quality_against_bytes):
            assert overlapping(draw(runs)) == []


def test_many_configurations_stay_apart(tmp_path):
    for rounds in range(20, 65, 5):
        fake_run(tmp_path / f"width{rounds}", rounds=rounds, name="a_rather_long_name_of_a_run")
    runs = find_runs([tmp_path])
    assert len(set(labels(group(runs)))) == 9
    assert overlapping(figures.learning_curve(runs)) == []
    figure = figures.quality_against_bytes(runs)
    assert overlapping(figure) == []
    bold = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert len({(line.get_color(), str(line.get_linestyle())) for line in bold}) == figures.MOST


def test_quarters_agree_with_the_distribution(folder):
    per_user = read_run(folder).per_user
    assert per_user is not None
    figure = figures.user_distribution(read_run(folder))
    hits, activity = per_user.values[:, 0].astype(np.float64), per_user.activity
    known = ~np.isnan(hits)
    parts = np.array_split(hits[known][np.argsort(activity[known], kind="stable")], 4)
    found = [bar.lines[0].get_ydata()[0] for bar in figure.axes[1].containers]
    np.testing.assert_allclose(found, [part.mean() for part in parts])
    np.testing.assert_allclose(found, [g["mean"] for g in by_activity(hits, activity).values()])
    for bar, part in zip(figure.axes[1].containers, parts, strict=True):
        low, high = bar.lines[2][0].get_segments()[0][:, 1]
        half = 1.96 * part.std(ddof=1) / part.size**0.5
        np.testing.assert_allclose([low, high], [part.mean() - half, part.mean() + half])
    shares = sum(patch.get_height() for patch in figure.axes[0].patches)
    np.testing.assert_allclose(shares, 100)


def test_binary_metrics_get_no_histogram(folder):
    run = read_run(folder)
    per_user = run.per_user
    assert per_user is not None
    binary = PerUser(per_user.values[:, :1], ("hr@10",), per_user.activity, per_user.users)
    half = np.float32([[1, 0.5], [0, 0]])
    few = PerUser(half, per_user.metrics, np.array([3, 9]), np.arange(2))
    for held, panels in ((binary, 1), (few, 2)):
        made = type(run)(run.folder, run.config, run.records, run.summary, held)
        assert len(figures.user_distribution(made).axes) == panels


def test_a_metric_without_a_finite_value_has_no_panel(folder, tmp_path):
    run = read_run(folder)
    per_user = run.per_user
    assert per_user is not None
    users = len(per_user.users)
    for lost, panels in (([0], 2), ([1], 1), ([0, 1], 0)):
        values = per_user.values.copy()
        values[:, lost] = [np.nan, np.inf][: len(lost)]
        held = PerUser(values, per_user.metrics, per_user.activity, per_user.users)
        made = type(run)(run.folder, run.config, run.records, run.summary, held)
        if panels:
            assert len(figures.user_distribution(made).axes) == panels
        else:
            with pytest.raises(ValueError, match="nothing to draw"):
                figures.user_distribution(made)
    copy = fake_run(tmp_path / "none")
    with np.load(copy / "per_user.npz") as stored:
        np.savez(copy / "per_user.npz", **{**stored, "values": np.full((users, 2), np.nan)})
    assert "per_user.png" not in [path.name for path in figures.draw_all(copy)]


def test_explicit_runs_say_which_way_is_better(tmp_path):
    run = read_run(fake_run(tmp_path / "run", explicit=True))
    assert "RMSE (lower is better)" in words(figures.learning_curve([run]))


def test_a_failed_save_leaves_the_old_picture(folder, tmp_path, monkeypatch):
    path = figures.save(figures.learning_curve([read_run(folder)]), tmp_path / "a.png")
    before = path.read_bytes()
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        figures.save(figures.quality_against_bytes([read_run(folder)]), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_trade_off_has_a_dot_a_setting_and_a_line_a_family(tmp_path):
    for cohort, level in ((20, 0.5), (40, 0.6), (80, 0.65)):
        name = f"colr,rank={cohort}"
        fake_run(tmp_path / name, 1, level, name=name, cohort=cohort, model=name)
    for seed in (1, 2):
        fake_run(tmp_path / f"none {seed}", seed, 0.7, name="none")
    runs = find_runs([tmp_path])
    for run in runs:  # a cohort changes no bytes of a client: let them differ
        run.summary["totals"]["bytes_up"] *= run.column("clients").mean()
    figure = tradeoff(runs)
    [ax] = figure.axes
    assert ax.get_xscale() == "log" and "KiB" in ax.get_xlabel() and "HR@10" in ax.get_ylabel()
    assert {"colr", "none", "rank=20", "rank=40", "rank=80"} <= words(figure)
    lines = [c for c in ax.containers if c.get_label() == "colr"]
    x, y = lines[0].lines[0].get_data()
    assert len(x) == 3 and (np.diff(x) > 0).all()
    best = {r.summary["name"]: r.summary["best"]["hr@10"] for r in runs}
    assert list(y) == pytest.approx([best[f"colr,rank={c}"] for c in (20, 40, 80)])
    (each, *_) = group(runs)
    aim = Target({}, {"hr@10": Goal(0.6, 0.58, 0.62, "")}, "")
    [ax] = tradeoff(runs, targets=[(each, aim)]).axes
    (ring,) = [line for line in ax.lines if line.get_label() == "target"]
    assert ring.get_xydata().tolist() == [[each.best("kib_up").mean(), 0.6]]
    fake_run(tmp_path / "silent", cohort=0)
    with pytest.raises(ValueError, match="no run sent anything"):
        tradeoff(find_runs([tmp_path / "silent"]))


def test_the_trade_off_joins_no_unrelated_runs(tmp_path):
    """Names without a setting, one name on other data, and settings of another kind: dots alone."""
    kinds = [("fedmf", {}), ("sasrec", {}), ("fedmf", {"data": "ml-1m"}), ("colr,rank=2", {})]
    kinds += [("colr,levels=4", {}), ("colr,rank=8", {"negatives": "train"})]
    for number, (name, given) in enumerate(kinds):
        fake_run(tmp_path / str(number), 0, 0.5, name=name, cohort=20 + 10 * number, **given)
    [ax] = tradeoff(find_runs([tmp_path])).axes
    assert [len(c.lines[0].get_xdata()) for c in ax.containers] == [1] * len(kinds)


def many(root: Path, count: int) -> list:
    """Runs of so many names, two seeds each, the later the better."""
    for i in range(count):
        for seed in (0, 1):
            folder = fake_run(root / f"{i}-{seed}", seed, 0.3 + 0.03 * i, cohort=100 + i)
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps({**summary, "name": f"run{i}"}))
    return find_runs([root])


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_of_many_groups_the_best_are_drawn_and_it_is_said(tmp_path):
    figure = figures.learning_curve(many(tmp_path, figures.MOST + 3))
    told = texts(figure)
    assert any(f"the best {figures.MOST} of {figures.MOST + 3} by HR@10" in text for text in told)
    names = [text for text in told if text.startswith("run")]
    assert [name.split()[0] for name in names] == [f"run{i}" for i in range(3, figures.MOST + 3)]
    assert "validation" not in told and "lowest to highest seed" in told
    ax = figure.axes[0]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(dots) == figures.MOST  # one a group, at the means over its seeds
    assert len(ax.lines) == 2 * figures.MOST


def test_a_few_groups_have_their_validation_and_what_bands_mean(tmp_path):
    told = texts(figures.learning_curve(many(tmp_path, 2)))
    assert {"test", "validation", "lowest to highest seed"} <= set(told)
    assert "best validation round, mean of seeds" in told


def test_a_sign_that_the_font_lacks_is_of_another_or_a_number(capsys, monkeypatch):
    figure = Figure()
    russian = figure.text(0, 0, "\u0416", fontfamily="cmr10")
    chinese = figure.text(0, 0.5, "run \u4e2d\u6587")
    monkeypatch.setattr(fonts, "FIRST", ("DejaVu Sans",))
    fonts.make_legible(figure)
    assert russian.get_text() == "\u0416" and len(russian.get_fontfamily()) == 2
    if fonts.font_for("\u4e2d\u6587") is None:
        assert chinese.get_text() == r"run \u4e2d\u6587"
        (line,) = capsys.readouterr().err.splitlines()
        assert "no installed font has" in line and "Noto Sans CJK" in line
    else:
        assert chinese.get_text() == "run \u4e2d\u6587" and len(chinese.get_fontfamily()) == 2


def test_labels_of_the_tradeoff_say_of_what_and_lie_beside_their_markers(tmp_path):
    for rank in (2, 8):
        folder = fake_run(tmp_path / f"{rank}", 0, 0.5, cohort=50 * rank)
        summary = json.loads((folder / "summary.json").read_text())
        name = {"name": f"colr,rank={rank}"}
        (folder / "summary.json").write_text(json.dumps({**summary, **name}))
    figure = tradeoff(find_runs([tmp_path]))
    ax = figure.axes[0]
    marks = [x for x in ax.texts if x.get_text() in ("rank=2", "rank=8")]
    assert len(marks) == 2
    figure.draw_without_rendering()
    dots = ax.transData.transform(np.concatenate([x.get_xydata() for x in ax.lines]))
    for text in marks:
        box = text.get_window_extent()
        assert not any(box.contains(x, y) for x, y in dots)
    assert figure.legends and figure.axes[0].get_legend() is None
