//! A disk under a server that a test can fill: a small mount where that is allowed, else a limit to the size of its files.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a mount may hold while it is not full; `tmpfs` takes memory only for what is there.
const ROOMY_MIB: u64 = 8 * 1024;
/// No file may be larger on a disk that is full: every server's files are already.
const FULL_FILE_BYTES: &str = "4096";

/// The disk under a folder. Where it is a mount, it is taken away when this is dropped.
#[derive(Debug)]
pub struct Disk {
    kind: Kind,
}

/// What a test wants under its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A disk of its own; a limit where mounts are not allowed.
    Mount,
    /// A limit, which is met with other errors than a full disk: those of a quota.
    FileLimit,
}

#[derive(Debug)]
enum Kind {
    Mount(PathBuf),
    FileLimit,
}

impl Disk {
    /// Puts a disk of its own under `folder`, with what the folder holds; its server must be down.
    ///
    /// # Errors
    /// When what it holds cannot be copied.
    pub fn under(folder: &Path, wanted: Wanted) -> Result<Self> {
        if wanted == Wanted::FileLimit || !nix::unistd::geteuid().is_root() {
            return Ok(Self { kind: Kind::FileLimit });
        }
        let owner = folder.metadata().with_context(|| folder.display().to_string())?;
        let kept = folder.with_extension("kept");
        let options = format!("size={ROOMY_MIB}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        run("cp", &["-a", text(folder), text(&kept)])?;
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", text(folder)]).is_ok();
        let disk = Self { kind: if mounted { Kind::Mount(folder.to_path_buf()) } else { Kind::FileLimit } };
        if mounted {
            run("cp", &["-a", &format!("{}/.", text(&kept)), text(folder)])?;
        }
        run("rm", &["-r", text(&kept)])?;
        Ok(disk)
    }

    /// From now on it is full: the servers are those with these first processes.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn fill(&self, server: i32) -> Result<()> {
        match &self.kind {
            Kind::Mount(folder) => resize(folder, used_kib(folder)?),
            Kind::FileLimit => limit_files(server, FULL_FILE_BYTES),
        }
    }

    /// There is room again.
    ///
    /// # Errors
    /// When there is not.
    pub fn empty(&self, server: i32) -> Result<()> {
        match &self.kind {
            Kind::Mount(folder) => resize(folder, ROOMY_MIB * 1024),
            // The limit of a process that has ended went with it.
            Kind::FileLimit if !Path::new("/proc").join(server.to_string()).exists() => Ok(()),
            Kind::FileLimit => limit_files(server, "unlimited"),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Kind::Mount(folder) = &self.kind {
            // Its server may still have files open; the mount goes with them.
            run("umount", &["--lazy", text(folder)]).ok();
        }
    }
}

/// The word after `option` in the command line of a process, as a path.
///
/// # Errors
/// When there is no such process or word.
pub fn path_of(pid: i32, option: &str) -> Result<PathBuf> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let mut words = line.split('\0').skip_while(|word| *word != option);
    words.nth(1).map(PathBuf::from).with_context(|| format!("process {pid} has no {option}"))
}

fn resize(folder: &Path, kib: u64) -> Result<()> {
    run("mount", &["-o", &format!("remount,size={kib}k"), text(folder)])
}

fn used_kib(folder: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(folder)?;
    Ok((stat.blocks() - stat.blocks_free()) * stat.fragment_size() / 1024)
}

/// Of the server and of the processes that it has started.
fn limit_files(server: i32, limit: &str) -> Result<()> {
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
    for child in children.split_whitespace() {
        // It may have ended meanwhile.
        limit_files_of(child, limit).ok();
    }
    limit_files_of(&server.to_string(), limit)
}

/// Acts as the user and group of the process: root may lack the right to limit others.
fn limit_files_of(pid: &str, limit: &str) -> Result<()> {
    let owner = Path::new("/proc").join(pid).metadata()?;
    let mut command = Command::new("prlimit");
    carry_out(command.args(["--pid", pid, &format!("--fsize={limit}:unlimited")]).gid(owner.gid()).uid(owner.uid()))
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    carry_out(Command::new(program).args(words))
}

fn carry_out(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are plain text")
}
