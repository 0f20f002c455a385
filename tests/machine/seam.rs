//! The seam at which the shipped machine is driven, and at which bugs are planted.

use rollout::machine::event::{Action, Event};
use rollout::machine::service::Service;
use rollout::machine::view::View;
use rollout::units::{Moment, WorkerId};

/// What the world sees of a machine.
pub(crate) trait Machine: Clone {
    fn step(&mut self, now: Moment, event: Event) -> Vec<Action>;
    fn next_deadline(&self) -> Option<Moment>;
    fn view(&self) -> View;
    fn workers(&self) -> Vec<WorkerId>;
    fn again(&self) -> Vec<Action>;
    /// The state file.
    fn save(&mut self) -> String;
    fn load(&mut self, text: &str);
}

/// The machine as it is shipped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shipped(pub(crate) Service);

impl Machine for Shipped {
    fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        self.0.step(now, event)
    }

    fn next_deadline(&self) -> Option<Moment> {
        self.0.next_deadline()
    }

    fn view(&self) -> View {
        self.0.view()
    }

    fn workers(&self) -> Vec<WorkerId> {
        self.0.workers()
    }

    fn again(&self) -> Vec<Action> {
        self.0.again()
    }

    fn save(&mut self) -> String {
        serde_json::to_string(&self.0).expect("a service can be written")
    }

    fn load(&mut self, text: &str) {
        self.0 = serde_json::from_str(text).expect("what was written can be read");
    }
}
