//! What a daemon answers who asks for its units.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::show;
use crate::cache::{Inventory, Listed, Minute};
use crate::control::MOST_UNITS;
use crate::prune::Amount;

/// The `ok` part of a `units` answer.
pub(super) fn answer(inventory: &Inventory, history: &[Minute], mountpoint: &Path) -> Value {
    let least = least_told(&inventory.units, MOST_UNITS);
    let (mut told, mut others) = (Vec::new(), BTreeMap::<_, (u64, Amount)>::new());
    for listed in &inventory.units {
        if told.len() < MOST_UNITS && listed.size.bytes >= least {
            told.push(unit(listed, inventory.at));
        } else {
            let (count, all) = others.entry(listed.tool).or_default();
            *count += 1;
            *all += listed.size;
        }
    }
    let others: Vec<Value> = others
        .into_iter()
        .map(|(tool, (units, all))| {
            json!({"tool": tool, "units": units, "bytes": all.bytes, "files": all.files})
        })
        .collect();
    let minutes: Vec<Value> = history
        .iter()
        .map(|minute| {
            let ago = age(inventory.at, minute.at);
            json!({"at": show::time(minute.at), "ago": ago, "hits": minute.hits, "misses": minute.misses})
        })
        .collect();
    let (held, kept) = (inventory.held, inventory.kept);
    json!({
        "mountpoint": mountpoint.to_string_lossy(),
        "at": show::time(inventory.at),
        "held": {"bytes": held.bytes, "files": held.files},
        "kept": {"bytes": kept.bytes, "files": kept.files},
        "units": told,
        "others": others,
        "unread": inventory.unread,
        "unknown": inventory.unknown,
        "history": minutes,
    })
}

fn unit(listed: &Listed, now: SystemTime) -> Value {
    json!({
        "tool": listed.tool,
        "name": listed.name,
        "path": listed.path.to_string_lossy(),
        "bytes": listed.size.bytes,
        "files": listed.size.files,
        "last_used": show::time(listed.last_used),
        "age": age(now, listed.last_used),
        "in_use": listed.in_use,
        "frees": listed.frees.map(|frees| frees.bytes),
        "along": listed.along,
    })
}

/// In seconds; 0 for what is still to come, as after a clock was put back.
fn age(now: SystemTime, at: SystemTime) -> u64 {
    now.duration_since(at).unwrap_or_default().as_secs()
}

/// How large a unit has to be to be among the `most` largest.
fn least_told(units: &[Listed], most: usize) -> u64 {
    if units.len() <= most {
        return 0;
    }
    let mut sizes: Vec<u64> = units.iter().map(|unit| unit.size.bytes).collect();
    let (_, least, _) = sizes.select_nth_unstable_by(most, |one, other| other.cmp(one));
    // The first that has no place any more; others may be as large.
    *least + 1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn listed(bytes: u64) -> Listed {
        Listed {
            tool: "uv",
            name: "a".into(),
            path: "uv/a".into(),
            size: Amount { bytes, files: 1 },
            last_used: SystemTime::UNIX_EPOCH,
            in_use: false,
            frees: None,
            along: false,
        }
    }

    #[test]
    fn the_largest_are_told() {
        let units: Vec<Listed> = [5, 1, 9, 5, 7].map(listed).into();
        assert_eq!(least_told(&units, 5), 0);
        assert_eq!(least_told(&units, 4), 2);
        assert_eq!(least_told(&units, 3), 6);
        assert_eq!(least_told(&units, 2), 6);
    }

    #[test]
    fn small_ones_are_counted_where_there_are_too_many() {
        let large = MOST_UNITS as u64 - 10;
        let units = (0..large).map(|_| listed(10)).chain((0..30).map(|_| listed(2))).collect();
        let inventory = Inventory {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(90),
            units,
            held: Amount::default(),
            kept: Amount::default(),
            unread: 0,
            unknown: false,
        };
        let answer = answer(&inventory, &[], Path::new("/m"));
        assert_eq!(answer["units"].as_array().unwrap().len() as u64, large);
        let others = json!([{"tool": "uv", "units": 30, "bytes": 60, "files": 30}]);
        assert_eq!(answer["others"], others);
        assert_eq!(answer["units"][0]["age"], 90);
    }
}
