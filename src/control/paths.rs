//! Paths in a mount, as the protocol has them: relative, as a string, or as an array of bytes where
//! they are not UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

/// `path` without anything that means nothing; why it is no path of something in a mount otherwise.
pub fn in_mount(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("a path has a NUL in it; give paths as they are listed".into());
    }
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                return Err(format!("{shown} has `..` in it; give the path without"));
            }
            Component::RootDir | Component::Prefix(_) => {
                return Err(format!("{shown} is not relative to the mount; give it from there"));
            }
        }
    }
    if inside.as_os_str().is_empty() {
        return Err(format!(
            "`{shown}` is nothing in the mount; to remove everything, give no path at all"
        ));
    }
    Ok(inside)
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Bytes(Vec<u8>),
}

pub(super) fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
    let written = paths.iter().map(|path| match path.to_str() {
        Some(text) => Written::Text(text.to_owned()),
        None => Written::Bytes(path.as_os_str().as_bytes().to_owned()),
    });
    written.collect::<Vec<_>>().serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let written = Vec::<Written>::deserialize(from)?;
    let path = |written| match written {
        Written::Text(text) => PathBuf::from(text),
        Written::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    };
    written.into_iter().map(|one| in_mount(&path(one)).map_err(D::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_goes() {
        for (path, inside) in [("uv", "uv"), ("./uv//wheels/", "uv/wheels"), ("a/./b", "a/b")] {
            assert_eq!(in_mount(Path::new(path)), Ok(PathBuf::from(inside)), "{path}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for (path, why) in [
            ("", "no path at all"),
            (".", "no path at all"),
            ("..", "`..`"),
            ("uv/../..", "`..`"),
            ("/etc", "not relative"),
            ("a\0b", "NUL"),
        ] {
            let said = in_mount(Path::new(path)).unwrap_err();
            assert!(said.contains(why), "{path:?}: {said}");
        }
    }
}
