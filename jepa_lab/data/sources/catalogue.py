"""The named data sets: where they come from, in which order, and what they must hash to."""

from __future__ import annotations

from dataclasses import dataclass

LARGE_MB = 500  # a larger set is fetched only when asked for by name


@dataclass(frozen=True)
class File:
    """One file of a data set, as it lies in the cache (unpacked)."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Source:
    """One place to get a set from: kind 'http' (base address), 'zip' (its address) or 'debian' (package name)."""

    kind: str
    where: str
    pattern: str = ""  # a file's path there; {name} is `File.name`; .gz is unzipped; a zip has its own names

    def __str__(self) -> str:
        return f"Debian package {self.where}" if self.kind == "debian" else self.where


@dataclass(frozen=True)
class DataSet:
    """A named data set. `fallback` names what stands in for it when no source answers."""

    name: str
    title: str
    kind: str  # 'real' | 'generated' | 'simulated'
    licence: str
    download_mb: float
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    fallback: str | None = None
    sums: str | None = None  # the one of `files` that lists the sha256 of many more


# The sha256 are of the unpacked idx files, computed from Debian's package. Its gzip files differ from the official ones
# by their headers only: with the official headers put back, all four have the MD5 that the official README lists.
FASHION_MNIST = DataSet(
    name="fashion-mnist",
    title="Fashion-MNIST, 60,000 + 10,000 grey images of 28x28, 10 classes (Zalando Research)",
    kind="real",
    licence="MIT",
    download_mb=30.9,
    files=(
        File("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016),
        File("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
        File("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
        File("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
    ),
    sources=(
        Source("http", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", "{name}.gz"),
        Source(
            "http", "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion", "{name}.gz"
        ),
        Source("debian", "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist/{name}.gz"),
    ),
    fallback="digits (scikit-learn), fallback",
)
# The sha256 are what several people published of their copies of 1.0.3; SHA256SUMS.txt lists those of its 87,196 record
# files.
PTB_XL = DataSet(
    name="ptb-xl",
    title="PTB-XL 1.0.3, 21,799 ECGs of 10 s with 12 leads, 100 and 500 Hz (Wagner et al. 2020, PhysioNet)",
    kind="real",
    licence="CC BY 4.0",
    download_mb=1800,
    files=(
        File("ptbxl_database.csv", "7600de9c1b27d181d850b3c6038a35d7c3ddb6bb33b702e3a20252a6859d216b", 6_594_879),
        File("scp_statements.csv", "ad05b0b1fcae83bb1230755ad9cfc7c96f303feddc08a4a9ad5bdc9ca63bac8f", 9_720),
        File("SHA256SUMS.txt", "b7224b92b341511ec3ceb13dc6652079b2c36a06504bcb49506f157f51dc695d", 8_284_204),
    ),
    sources=(
        Source(
            "zip",
            "https://physionet.org/static/published-projects/ptb-xl/"
            "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3.zip",
        ),
        Source("zip", "https://physionet.org/content/ptb-xl/get-zip/1.0.3/"),
    ),
    sums="SHA256SUMS.txt",
)

DATASETS: dict[str, DataSet] = {data_set.name: data_set for data_set in (FASHION_MNIST, PTB_XL)}


def everyday() -> list[str]:
    """The sets that are meant when no name is given; larger ones (PTB-XL) come when they are asked for."""
    return [name for name, data_set in DATASETS.items() if data_set.download_mb < LARGE_MB]
