//! Damage in a store, as `verify` finds it and as other commands pass it by.

use layer_archive::LayerName;
use serde::Serialize;
use serde_json::json;
use sync_engine::Finding;

use crate::exit::Exit;
use crate::output::{Outcome, names_line};

/// Something that is wrong with an object.
#[derive(Debug, Serialize)]
pub(crate) struct DamageJson {
    object: String,
    problem: String,
    layers: Vec<String>,
    points: Option<LostPoints>,
}

/// The points in time that it costs: those after the records `oldest` to `newest`.
#[derive(Clone, Copy, Debug, Serialize)]
struct LostPoints {
    oldest: u64,
    newest: u64,
}

impl From<&Finding> for DamageJson {
    fn from(finding: &Finding) -> Self {
        let Finding { object, problem, layers, points } = finding;
        let layers = layers.iter().map(LayerName::to_string).collect();
        let points = points.map(|points| LostPoints { oldest: points.oldest.0, newest: points.newest.0 });
        Self { object: object.clone(), problem: problem.clone(), layers, points }
    }
}

impl DamageJson {
    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    /// What is wrong and what it costs, in one line.
    pub(crate) fn line(&self) -> String {
        let Self { object, problem, layers, points } = self;
        let layers = match &**layers {
            [] => String::new(),
            [layer] => format!(" (costs layer {layer})"),
            layers => format!(" (costs {} layers: {})", layers.len(), names_line(layers)),
        };
        let points = points.map(LostPoints::line).unwrap_or_default();
        format!("{object}: {problem}{layers}{points}")
    }
}

impl LostPoints {
    fn line(self) -> String {
        let Self { oldest, newest } = self;
        let records = if oldest == newest {
            format!("record {oldest}")
        } else {
            format!("records {oldest} to {newest}")
        };
        format!(
            " (costs the points in time as of {records}: go back to another one with --at; it goes with `layerpack gc` \
             after retention)"
        )
    }
}

impl Outcome {
    /// Adds damage that did not keep a command from doing its work.
    pub(crate) fn add_damage<'a>(&mut self, findings: impl IntoIterator<Item = &'a Finding>) {
        let damage: Vec<DamageJson> = findings.into_iter().map(DamageJson::from).collect();
        for finding in &damage {
            let line = finding.line();
            self.problems.push(format!(
                "damage in the store: {line}: `layerpack verify --deep` shows how far it goes"
            ));
            self.exit = self.exit.or_worse(Exit::Damaged);
        }
        self.json.insert("damage".into(), json!(damage));
    }
}
