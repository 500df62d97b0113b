//! What the page computes with: units by tool and size, their ages, and what a prune to any size would take.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::words;
use crate::cli::show;

/// So many units are shown as such, the largest; the others of a tool together.
const SHOWN: usize = 360;

/// But of each tool at least so many.
const OF_EACH: usize = 2;

/// A prune is shown in steps of one in so many.
const STEPS: u64 = 100;

const DAY: u64 = 24 * 60 * 60;

/// The ends of the classes of age, in seconds, and what they are called. The last one has no end.
pub(super) const AGES: [(u64, &str); 5] = [
    (DAY, "last day"),
    (7 * DAY, "last week"),
    (30 * DAY, "last 30 days"),
    (90 * DAY, "last 90 days"),
    (u64::MAX, "longer ago"),
];

/// The number of the class of an age.
pub(super) fn class(age: u64) -> usize {
    AGES.iter().position(|(end, _)| age < *end).unwrap_or(AGES.len() - 1)
}

/// A unit, as the daemon has told it.
pub(super) struct Unit<'a> {
    pub(super) tool: &'a str,
    pub(super) name: &'a str,
    path: &'a str,
    pub(super) bytes: u64,
    pub(super) age: u64,
    pub(super) in_use: bool,
    /// What becomes free when its turn has come, if it may go.
    frees: Option<u64>,
    along: bool,
    /// The first of the steps in which it goes; one more than there are if it never does.
    step: u64,
}

/// All that the page shows of units.
pub(super) struct Figures<'a> {
    /// In the order in which they would go.
    pub(super) units: Vec<Unit<'a>>,
    /// What is in no unit.
    pub(super) kept: u64,
    pub(super) held: u64,
    /// By tool, those that were only counted: how many, and their bytes.
    counted: BTreeMap<&'a str, (u64, u64)>,
    /// The sizes to which it is pruned: how much stays, and as words for `--max-size`.
    sizes: Vec<(u64, String)>,
}

impl<'a> Figures<'a> {
    pub(super) fn of(told: &'a Value) -> Figures<'a> {
        let list = |key: &str| told[key].as_array().into_iter().flatten();
        let units: Vec<Unit> = list("units").map(unit).collect();
        let counted = list("others").map(|others| {
            let number = |key: &str| others[key].as_u64().unwrap_or(0);
            (others["tool"].as_str().unwrap_or("?"), (number("units"), number("bytes")))
        });
        let held = told["held"]["bytes"].as_u64().unwrap_or(0);
        let mut figures = Figures {
            kept: told["kept"]["bytes"].as_u64().unwrap_or(0),
            held,
            counted: counted.collect(),
            sizes: sizes(held, units.iter().filter_map(|unit| unit.frees).sum()),
            units,
        };
        figures.find_steps();
        figures
    }

    /// Which units go when it is pruned to each of the sizes: a group of those that go together goes while
    /// what went before does not suffice.
    fn find_steps(&mut self) {
        let (mut freed, mut step) = (0, 1);
        let never = self.sizes.len() as u64;
        for unit in &mut self.units {
            let Some(frees) = unit.frees else {
                unit.step = never;
                continue;
            };
            if !unit.along {
                while step < never && self.held - self.sizes[step as usize].0 <= freed {
                    step += 1;
                }
            }
            unit.step = step;
            freed += frees;
        }
    }

    /// How many units there are.
    pub(super) fn count(&self) -> u64 {
        self.units.len() as u64 + self.counted.values().map(|(units, _)| units).sum::<u64>()
    }

    /// The bytes of each class of age, and its units.
    pub(super) fn by_age(&self) -> [(u64, u64); AGES.len()] {
        let mut all = [(0, 0); AGES.len()];
        for unit in &self.units {
            let (bytes, units) = &mut all[class(unit.age)];
            *bytes += unit.bytes;
            *units += 1;
        }
        all
    }

    /// The largest units, the largest first.
    pub(super) fn largest(&self) -> Vec<&Unit<'a>> {
        let mut largest: Vec<&Unit> = self.units.iter().collect();
        largest.sort_by_key(|unit| std::cmp::Reverse(unit.bytes));
        largest
    }

    /// What the script draws.
    pub(super) fn data(&self) -> Value {
        json!({"tools": self.tools(), "steps": self.steps()})
    }

    /// The tools with their largest units, and what the others of each come to.
    fn tools(&self) -> Vec<Value> {
        let mut tools = BTreeMap::<&str, Vec<&Unit>>::new();
        let mut shown = 0;
        let mut others = BTreeMap::<&str, Others>::new();
        for (tool, (units, bytes)) in &self.counted {
            tools.entry(tool).or_default();
            others.entry(tool).or_default().add_counted(*units, *bytes);
        }
        for unit in self.largest() {
            let of_tool = tools.entry(unit.tool).or_default();
            if shown < SHOWN || of_tool.len() < OF_EACH {
                of_tool.push(unit);
                shown += 1;
            } else {
                others.entry(unit.tool).or_default().add(unit, self.sizes.len());
            }
        }
        let tool = |(name, units): (&str, Vec<&Unit>)| {
            let others = others.remove(name);
            let rest = others.as_ref().map_or((0, 0), |others| (others.units, others.bytes));
            let bytes = units.iter().map(|unit| unit.bytes).sum::<u64>() + rest.1;
            json!({
                "name": name, "bytes": bytes, "size": show::bytes(bytes),
                "units": words::grouped(units.len() as u64 + rest.0),
                "tiles": units.into_iter().map(tile).collect::<Vec<_>>(),
                "others": others.map(|others| others.tile()),
            })
        };
        tools.into_iter().map(tool).collect()
    }

    /// What would go at each step.
    fn steps(&self) -> Vec<Value> {
        let mut steps = Vec::new();
        let (mut next, mut units, mut frees, mut in_use) = (0, 0, 0, 0);
        let mut youngest = u64::MAX;
        for (step, (to, word)) in self.sizes.iter().enumerate() {
            // They are in the order of their steps.
            while let Some(unit) = self.units.get(next).filter(|unit| unit.step <= step as u64) {
                units += 1;
                frees += unit.frees.unwrap_or(0);
                in_use += u64::from(unit.in_use);
                if !unit.along {
                    youngest = youngest.min(unit.age);
                }
                next += 1;
            }
            steps.push(json!({
                "to": show::bytes(*to), "word": word, "units": units, "count": words::grouped(units),
                "bytes": frees, "frees": show::bytes(frees), "in_use": in_use,
                "youngest": (units > 0).then(|| words::ago(youngest)),
            }));
        }
        steps
    }
}

/// The units of a tool that are not shown one by one.
#[derive(Default)]
struct Others {
    units: u64,
    bytes: u64,
    ages: [u64; AGES.len()],
    /// The bytes of those that go first at each step.
    steps: Vec<u64>,
}

impl Others {
    fn add_counted(&mut self, units: u64, bytes: u64) {
        self.units += units;
        self.bytes += bytes;
    }

    fn add(&mut self, unit: &Unit, steps: usize) {
        self.add_counted(1, unit.bytes);
        self.ages[class(unit.age)] += unit.bytes;
        self.steps.resize(steps, 0);
        if let Some(at) = self.steps.get_mut(unit.step as usize) {
            *at += unit.bytes;
        }
    }

    fn tile(&self) -> Value {
        let largest = (0..AGES.len()).max_by_key(|class| self.ages[*class]).unwrap_or(0);
        // In hundredths of them, all up to there.
        let parts = |all: &[u64]| -> Vec<u64> {
            let sums = all.iter().scan(0, |sum, bytes| {
                *sum += bytes;
                Some(*sum)
            });
            let part = |sum: u64| u128::from(sum) * 100 / u128::from(self.bytes.max(1));
            sums.map(|sum| part(sum) as u64).collect()
        };
        json!({
            "bytes": self.bytes, "size": show::bytes(self.bytes), "class": largest,
            "name": format!("{} smaller ones", words::grouped(self.units)),
            "gone": parts(&self.steps), "ages": parts(&self.ages),
        })
    }
}

fn unit(told: &Value) -> Unit<'_> {
    let text = |key: &str| told[key].as_str().unwrap_or("?");
    let number = |key: &str| told[key].as_u64().unwrap_or(0);
    Unit {
        tool: text("tool"),
        name: text("name"),
        path: text("path"),
        bytes: number("bytes"),
        age: number("age"),
        in_use: told["in_use"] == true,
        frees: told["frees"].as_u64(),
        along: told["along"] == true,
        step: 0,
    }
}

fn tile(unit: &Unit) -> Value {
    json!({
        "name": unit.name, "path": unit.path, "bytes": unit.bytes, "size": show::bytes(unit.bytes),
        "used": words::ago(unit.age), "class": class(unit.age), "in_use": unit.in_use, "step": unit.step,
    })
}

/// The sizes to prune to, from all that is held (which takes nothing) down to what can't go. In whole units,
/// so that who says one gets what was shown.
fn sizes(held: u64, can_go: u64) -> Vec<(u64, String)> {
    let mut sizes = vec![(held, "100%".to_owned())];
    if can_go == 0 || can_go > held {
        return sizes;
    }
    let (unit, letter) = match can_go / STEPS {
        0x20_0000.. => (1 << 20, "M"),
        0x800.. => (1 << 10, "K"),
        _ => (1, "B"),
    };
    for step in 1..=STEPS {
        let goes = u128::from(can_go) * u128::from(step) / u128::from(STEPS);
        let whole = (held - goes as u64) / unit;
        sizes.push((whole * unit, format!("{whole}{letter}")));
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(units: &[(u64, Option<u64>, bool)]) -> Value {
        let unit = |(number, (bytes, frees, along)): (usize, &(u64, Option<u64>, bool))| {
            json!({"tool": "uv", "name": format!("u{number}"), "path": "", "bytes": bytes, "frees": frees,
                "along": along, "age": 1000 - number, "in_use": false})
        };
        let units: Vec<Value> = units.iter().enumerate().map(unit).collect();
        let held: u64 = units.iter().map(|unit| unit["bytes"].as_u64().unwrap()).sum();
        json!({"units": units, "held": {"bytes": held}, "kept": {"bytes": 0}})
    }

    #[test]
    fn what_goes_together_goes_in_one_step() {
        let told = told(&[
            (100, Some(100), false),
            (0, Some(0), true),
            (100, Some(100), false),
            (200, None, false),
        ]);
        let figures = Figures::of(&told);
        let steps: Vec<u64> = figures.units.iter().map(|unit| unit.step).collect();
        // Half of what can go is gone with the first two; the last one stays at every step.
        assert_eq!(steps, [1, 1, 51, 101]);
        let data = figures.data();
        let at = |step: usize, key: &str| data["steps"][step][key].clone();
        assert_eq!((at(0, "units"), at(0, "bytes")), (0.into(), 0.into()));
        assert_eq!((at(50, "units"), at(50, "bytes")), (2.into(), 100.into()));
        assert_eq!((at(100, "units"), at(100, "bytes")), (3.into(), 200.into()));
        assert_eq!(at(100, "word"), "200B");
    }

    #[test]
    fn small_ones_are_together() {
        let many: Vec<_> = (0..1000).map(|_| (10, Some(10), false)).collect();
        let told = told(&many);
        let data = Figures::of(&told).data();
        let tool = &data["tools"][0];
        assert_eq!(tool["tiles"].as_array().unwrap().len(), SHOWN);
        assert_eq!(tool["others"]["name"], "640 smaller ones");
        assert_eq!(tool["bytes"], 10_000);
        let gone = tool["others"]["gone"].as_array().unwrap();
        assert_eq!((&gone[0], &gone[100]), (&0.into(), &100.into()));
    }

    #[test]
    fn nothing_is_no_problem() {
        let empty = Figures::of(&Value::Null).data();
        assert_eq!((&empty["tools"], empty["steps"].as_array().unwrap().len()), (&json!([]), 1));
        let only_kept = json!({"units": [], "held": {"bytes": 5}, "kept": {"bytes": 5}});
        assert_eq!(Figures::of(&only_kept).data()["steps"][0]["units"], 0);
    }

    #[test]
    fn ages_have_classes() {
        assert_eq!([0, DAY - 1, DAY, 89 * DAY, u64::MAX].map(class), [0, 0, 1, 3, 4]);
    }
}
