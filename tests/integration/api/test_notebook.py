"""What notebooks show, and the walk-through of the documentation, executed."""

import datetime
import html.parser
import re

import pyarrow.parquet as pq

from hpctrack import Experiment, errors
from hpctrack.run.states import RunStatus
from tests.support.paths import DOCS

PAGE = DOCS / "python.md"
T0 = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)


class Page(html.parser.HTMLParser):
    """Collects a page's text and tags, and sees that what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_a_run_is_shown_with_its_state_and_courses(client):
    run = Experiment(client, name="digits").get_run()
    run.set_args(lr=0.1)
    with run.track():
        for step, loss in enumerate((1.0, 9.5, 0.5)):
            run.add_metrics(step=step, loss=loss)
    page = Page(run._repr_html_())
    assert "✓\xa0COMPLETED" in page.texts
    assert {"digits", "lr 0.1", "loss", "9.5"} <= set(page.texts)
    assert page.tags.count("svg") == 1
    assert "#009e73" in run._repr_html_()


def test_names_can_not_break_out_of_the_page(client, insert, connection):
    bad = "<script>alert('x')</script>"
    experiment = insert("experiments", name=bad, comment=bad)
    run_id = insert(
        "runs", experiment_id=experiment, status="FAILED", job_name=bad, reason=bad, args={bad: bad},
        tags={bad: True}, time_started=T0,
    )  # fmt: skip
    insert("metrics", run_id=run_id, step=1, extra={bad: 1.0})
    insert("run_latest", run_id=run_id, last={bad: 1.0})
    insert("transitions", run_id=run_id, status="FAILED", source="user", reason=bad)
    run = client.run(run_id)
    shown = [run, client.runs(), client.experiment(bad), run.transitions(), run.attempts()]
    for item in shown:
        assert "script" not in Page(item._repr_html_()).tags
    assert bad in "".join(Page(run._repr_html_()).texts)


def test_a_list_shows_the_newest_and_says_of_how_many(client, insert):
    experiment = insert("experiments", name="e")
    for _ in range(60):
        insert("runs", experiment_id=experiment, status="RUNNING")
    page = Page(client.runs()._repr_html_())
    assert page.tags.count("tr") == 51
    assert page.texts[-1] == "the newest 50 of 60 runs"
    assert Page(client.experiment("e")._repr_html_()).texts[-1] == "●\xa0RUNNING"


def test_a_run_is_shown_also_where_postgresql_is_away(client, run, monkeypatch):
    mine = client.run(run())

    def away(question):
        raise errors.StoreUnavailable

    monkeypatch.setattr(client, "ask", away)
    assert "●\xa0RUNNING" in Page(mine._repr_html_()).texts


def test_the_walk_through_runs_as_it_stands(database, tmp_path, monkeypatch, capsys):
    for name, value in database.dsn.items():
        monkeypatch.setenv(f"HPCTRACK_DSN_{name.upper()}", value)
    monkeypatch.setenv("HPCTRACK_DATA_DIR", database.data_dir)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8
    seen = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), seen)
    with seen["client"]:
        assert [run.status for run in seen["failed"]] == [RunStatus.FAILED]
        assert seen["failed"][0].info.reason == "ValueError: loss is nan"
        assert [run.args["lr"] for run in seen["good"]] == [0.1, 0.01]
        assert seen["frame"].columns.tolist() == ["step", "progress", "time", "loss", "lr", "val_loss"]
        assert seen["losses"]["step"].tolist() == [0, 10, 20, 30, 40]
        assert seen["table"].num_rows == 50
        assert seen["everything"]["run"].nunique() == 3
        assert seen["best"]["args.lr"] == 0.1
        assert seen["best"]["args.model.layers"] == 2
        assert seen["rows"] == 150 == pq.read_metadata(tmp_path / "walk.parquet").num_rows
        run = seen["run"].id
        assert capsys.readouterr().out == f"no metric 'los' in r{run}: did you mean 'loss'?\n"
