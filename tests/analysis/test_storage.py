"""Studies in an object store, read from a real S3 server."""

from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from analysis import load_studies, load_study
from tests.analysis.made import make_study
from trainables.errors import UserError

pytestmark = pytest.mark.slow


def test_a_study_in_s3_is_that_on_the_disk(s3: fs.S3FileSystem, tmp_path: Path) -> None:
    local = make_study(tmp_path / "both" / "mlp", trials=8)
    make_study(tmp_path / "both" / "lstm", "lstm", trials=5)
    fs.copy_files(
        str(tmp_path / "both"), "studies/here/both", source_filesystem=fs.LocalFileSystem(), destination_filesystem=s3
    )
    there, here = load_study("s3://studies/here/both/mlp"), load_study(local)
    pd.testing.assert_frame_equal(there.trials, here.trials)
    pd.testing.assert_frame_equal(there.epochs, here.epochs)
    pd.testing.assert_frame_equal(there.models[0].predictions, here.models[0].predictions)
    assert [study.name for study in load_studies("s3://studies/here/both").studies] == ["lstm", "mlp"]


def test_what_is_not_there_is_said(s3: fs.S3FileSystem) -> None:
    with pytest.raises(UserError, match=r"must hold study\.json, but s3://studies/nowhere"):
        load_study("s3://studies/nowhere")
    with pytest.raises(UserError, match=r"must hold study\.json|must be readable"):
        load_studies("s3://no-such-bucket/x")
