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
}

impl From<&Finding> for DamageJson {
    fn from(finding: &Finding) -> Self {
        let Finding { object, problem, layers } = finding;
        let layers = layers.iter().map(LayerName::to_string).collect();
        Self { object: object.clone(), problem: problem.clone(), layers }
    }
}

impl DamageJson {
    /// What is wrong and which layers it costs, in one line.
    pub(crate) fn line(&self) -> String {
        let Self { object, problem, layers } = self;
        let cost = match &**layers {
            [] => String::new(),
            [layer] => format!(" (costs layer {layer})"),
            layers => format!(" (costs {} layers: {})", layers.len(), names_line(layers)),
        };
        format!("{object}: {problem}{cost}")
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
