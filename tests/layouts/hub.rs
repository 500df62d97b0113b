//! The hub cache of Hugging Face, filled by its own client.

use std::collections::BTreeMap;

use crate::common::Run;
use crate::scene::{Scene, proved};
use crate::serve::{Answer, Server};

/// The commits of a repository, and what is in them: the larger file is the same in both.
fn files(commit: &str) -> BTreeMap<&'static str, String> {
    let config = format!("{{\"commit\": \"{}\"}}", &commit[..1]);
    [("config.json", config), ("weights/model.bin", "M".repeat(100_000))].into()
}

const OLD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const NEW: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn hub() -> Server {
    Server::new(|_, path| {
        let mut names = path.trim_matches('/').splitn(5, '/');
        let (_, _, resolve) = (names.next()?, names.next()?, names.next()?);
        let (revision, file) = (names.next()?, names.next()?);
        assert_eq!(resolve, "resolve");
        let commit = match revision {
            "main" | NEW => NEW,
            "v1" | OLD => OLD,
            _ => return None,
        };
        let body = files(commit).remove(file)?.into_bytes();
        let tag = format!("\"{file}-{}\"", if file == "config.json" { commit } else { "both" });
        let headers = vec![("X-Repo-Commit", commit.to_owned()), ("ETag", tag.replace('/', "-"))];
        Some(Answer { headers, body })
    })
}

fn kept(name: &str) -> bool {
    name.starts_with("huggingface/hub/.locks/") || name == "huggingface/hub/CACHEDIR.TAG"
}

/// Asks for all files of both revisions; prints what is in them.
fn ask(scene: &Scene, server: &Server, offline: bool) -> Run {
    let script = "from huggingface_hub import hf_hub_download\n\
                  for revision in 'main', 'v1':\n\
                  \x20 for file in 'config.json', 'weights/model.bin':\n\
                  \x20   print(len(open(hf_hub_download('o/n', file, revision=revision)).read()))";
    let home = scene.work.join("home");
    scene
        .tool("python")
        .args(["-c", script])
        .env("HF_ENDPOINT", format!("http://{}", server.address()))
        .env("HF_HUB_CACHE", scene.cache.join("huggingface/hub"))
        .env("HF_HOME", home)
        .env("HF_HUB_DISABLE_TELEMETRY", "1")
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
}

#[test]
fn the_hub_s_client_gets_along() {
    let (scene, server) = (Scene::new(), hub());
    let works = |offline: bool| {
        let said = ask(&scene, &server, offline).succeeds();
        assert_eq!(said.stdout, "15\n100000\n15\n100000\n");
    };
    works(false);
    works(true);
    let units = proved(&scene.cache, &kept);
    let names: Vec<_> = units.units.iter().map(|unit| unit.paths.len()).collect();
    // Two revisions, each with a name for it and a blob of its own; and the blob of both.
    assert_eq!(
        {
            let mut names = names;
            names.sort_unstable();
            names
        },
        [1, 3, 3]
    );
    scene.survives(kept, 1, |_, plan| {
        let offline = ask(&scene, &server, true).finish();
        assert!(!offline.status.success(), "{plan:?} took nothing away");
        works(false);
        works(true);
    });

    // The blob of both goes with the second.
    let revision = |commit: &str| {
        let of = |unit: &cachefs::prune::Unit| unit.paths.iter().any(|path| path.ends_with(commit));
        units.units.iter().position(of).unwrap()
    };
    let first = scene.take(&units, revision(OLD));
    assert_eq!(first.chosen.len(), 1);
    let left = proved(&scene.cache, &kept);
    // It is nobody else's now.
    assert_eq!(left.units.len(), 1);
}
