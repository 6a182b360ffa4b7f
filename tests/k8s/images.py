"""Images as archives, built without a daemon and kept by their content: ours, Postgres, NATS, and what a cluster or compose has besides."""

import shutil
import tempfile
from pathlib import Path

import tools
from machine import Broken, run

HERE = Path(__file__).resolve().parent / "images"
DOCKERFILE = tools.REPOSITORY / "deploy" / "Dockerfile"
ARCHIVES = tools.KEPT / "images"
# Two tags of one content: an upgrade replaces every pod, and what differs is the name alone.
OURS = ("localhost/orchestr8:1", "localhost/orchestr8:2")
POSTGRES = "localhost/postgres:17.10"
NATS = "localhost/nats:2.15.1"
PROMETHEUS = "localhost/prometheus:2.53.3"
COLLECTOR = f"localhost/collector:{tools.COLLECTOR}"
PAUSE = "localhost/pause:1"
KEDA = f"localhost/keda:{tools.KEDA}"
KEDA_ADAPTER = f"localhost/keda-adapter:{tools.KEDA}"


class Builder:
    """buildah with storage of its own, which is gone at the end: nothing of the machine's images is touched."""

    def __init__(self):
        self.store = None

    def __enter__(self):
        self.store = Path(tempfile.mkdtemp(prefix="draft-", dir=tools.KEPT))
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.store)

    def image(self, *words):
        where = ("--root", self.store / "root", "--runroot", self.store / "run", "--storage-driver", "vfs")
        return run("buildah", *where, *words, timeout=1800)

    def build(self, name, dockerfile, context, *words):
        self.image("bud", "--quiet", "--isolation", "chroot", "--file", dockerfile, "--tag", name, *words, context)

    def load(self, name, archive):
        """An image of one layer, from a folder's archive or an image's."""
        container = self.image("from", "scratch").strip()
        self.image("add", "--quiet", container, archive, "/")
        self.image("commit", "--quiet", "--rm", container, name)

    def save(self, name, archive):
        self.image("push", "--quiet", name, f"docker-archive:{archive}.draft:{name}")
        Path(f"{archive}.draft").rename(archive)


def of_cluster(binary, programs, keda=None):
    """Archives of every image of a cluster, by name: pause from the folder of Kubernetes' programs, KEDA's where its folder is given."""
    more = {PAUSE: (HERE / "pause.Dockerfile", [programs / "pause"], {"pause": programs / "pause"})}
    if keda:
        for name, program in ((KEDA, keda / "keda"), (KEDA_ADAPTER, keda / "keda-adapter")):
            more[name] = (HERE / f"{program.name}.Dockerfile", [program], {program.name: program})
    return all_of_them(binary, more)


def of_compose(binary, prometheus, collector=None):
    """Archives of the images of compose.yaml that can be made without a registry, by name: the collector's where its program is given."""
    more = {PROMETHEUS: (HERE / "prometheus.Dockerfile", [prometheus], {"prometheus": prometheus})}
    if collector:
        more[COLLECTOR] = (HERE / "collector.Dockerfile", [collector], {"otelcol": collector})
    return all_of_them(binary, more)


def all_of_them(binary, more):
    """Archives by name: ours around the binary, Postgres, NATS, and more: name to Dockerfile, what goes into it, and its folder."""
    ARCHIVES.mkdir(parents=True, exist_ok=True)
    servers = tools.servers()
    base = debian()
    with tempfile.TemporaryDirectory(prefix="draft-", dir=tools.KEPT) as stripped, Builder() as builder:
        ours, shim = Path(stripped) / "orchestr8", Path(stripped) / "orchestr8-shim"
        run("strip", "-o", ours, binary)
        run("strip", "-o", shim, Path(binary).with_name("orchestr8-shim"))
        entry = HERE / "postgres-entry.sh"
        inputs = {
            OURS[0]: (HERE / "orchestr8.Dockerfile", [ours, shim, DOCKERFILE], {"orchestr8": ours, "orchestr8-shim": shim}),
            POSTGRES: (HERE / "postgres.Dockerfile", [entry], {"postgres-entry.sh": entry, "servers": servers}),
            NATS: (HERE / "nats.Dockerfile", [servers / "bin" / "nats-server"], {"servers": servers}),
            **more,
        }
        return {name: archive(builder, name, base, *each) for name, each in inputs.items()}


def archive(builder, name, base, dockerfile, contents, context):
    """The image's archive: the kept one where nothing that goes into it has changed."""
    label = name.removeprefix("localhost/").replace(":", "-")
    kept = ARCHIVES / f"{label}-{tools.digest(dockerfile, *contents)}.tar"
    if kept.exists():
        return kept
    print(f"building the image {name}", flush=True)
    if b"localhost/debian" in dockerfile.read_bytes():
        builder.load("localhost/debian:bookworm-slim", base)
    if name == OURS[0]:
        runtime(builder, base)
    with tempfile.TemporaryDirectory(prefix="draft-", dir=tools.KEPT) as folder:
        for inside, source in context.items():
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, Path(folder) / inside)
        builder.build(name, dockerfile, folder)
    for old in ARCHIVES.glob(f"{label}-*.tar"):
        old.unlink()
    builder.save(name, kept)
    return kept


def runtime(builder, base):
    """The stage `runtime` of deploy/Dockerfile, kept as an archive of its files: its packages come from the network."""
    kept = ARCHIVES / f"runtime-{tools.digest(DOCKERFILE)}.oci.tar"
    name = "localhost/orchestr8-runtime:1"
    if kept.exists():
        builder.image("pull", "--quiet", f"docker-archive:{kept}")
        return
    builder.load("localhost/debian:bookworm-slim", base)
    builder.build(name, DOCKERFILE, DOCKERFILE.parent, "--target", "runtime", "--build-arg", "DEBIAN=localhost/debian:bookworm-slim")
    builder.save(name, kept)


def debian():
    """The archive of a small Debian, the same as for `make image-test`."""
    kept = tools.TOOLS / "debian-bookworm.tar"
    if not kept.exists():
        draft = kept.with_suffix(".draft.tar")
        run("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", draft, timeout=1800)
        if not draft.exists():
            raise Broken("mmdebstrap made no archive of Debian")
        draft.rename(kept)
    return kept
