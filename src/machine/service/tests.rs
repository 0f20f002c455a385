//! Stories: what the machine says, event by event.

use super::*;
use crate::machine::event::{Cause, OnStop};
use crate::machine::limits::{GiveUp, OnFailure};
use crate::machine::view::{ServiceState, WorkerState};
use crate::units::{Digest, Signal};

/// A service and the moment it is at.
struct Story {
    service: Service,
    now: Moment,
    said: Vec<Action>,
}

const A: Digest = Digest([0xa; 32]);
const B: Digest = Digest([0xb; 32]);
const C: Digest = Digest([0xc; 32]);

fn limits(workers: u32) -> Limits {
    // The stories say themselves when a lane has settled.
    Limits { workers, max_draining: workers, settle: Duration::from_secs(3600), ..Limits::default() }
}

impl Story {
    /// A service whose N workers w1..wN serve release A.
    fn serving(limits: Limits) -> Self {
        let workers = u64::from(limits.workers);
        let mut story = Self { service: Service::new(), now: Moment(1), said: Vec::new() };
        story.roll(1, A, limits);
        for worker in 1..=workers {
            story.ready(worker);
        }
        assert_eq!(story.service.view().state, ServiceState::Serving);
        story
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        self.said = self.service.step(self.now, event);
        self
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now = self.now.after(time);
        self.tell(Event::DeadlinePassed)
    }

    fn roll(&mut self, rollout: u64, release: Digest, limits: Limits) -> &mut Self {
        self.tell(Event::Roll { rollout: RolloutId(rollout), release, limits })
    }

    /// The worker passes its check and stays well for `min_ready`.
    fn ready(&mut self, worker: u64) -> &mut Self {
        self.tell(Event::Passed(WorkerId(worker)));
        self.wait(self.service.limits.min_ready)
    }

    fn sickens(&mut self, worker: u64) -> &mut Self {
        self.tell(Event::Sickened(WorkerId(worker), Symptom::Unhealthy("503".to_owned())))
    }

    fn exits(&mut self, worker: u64) -> &mut Self {
        self.tell(Event::Exited(WorkerId(worker), Exit::Code(1)))
    }

    /// The last step's actions without its notes.
    fn did(&self) -> Vec<String> {
        let deeds = self.said.iter().filter_map(|action| match action {
            Action::Spawn { worker, slot, target } => {
                Some(format!("spawn {worker} in {slot} of {}", &target.release.to_string()[1..2]))
            }
            Action::Admit(worker) => Some(format!("admit {worker}")),
            Action::Exclude(worker) => Some(format!("exclude {worker}")),
            Action::AwaitEmpty(worker) => Some(format!("await {worker}")),
            Action::Stop(worker) => Some(format!("stop {worker}")),
            Action::Kill(worker) => Some(format!("kill {worker}")),
            Action::Release(worker) => Some(format!("release {worker}")),
            Action::Over => Some("over".to_owned()),
            Action::Announce(_) => None,
        });
        deeds.collect()
    }

    fn ended(&self) -> Vec<(u64, Outcome)> {
        let mut ends = Vec::new();
        for action in &self.said {
            if let Action::Announce(Note::Ended { rollout, outcome }) = action {
                ends.push((rollout.0, outcome.clone()));
            }
        }
        ends
    }

    fn ready_count(&self) -> usize {
        self.service.view().workers.iter().filter(|worker| worker.state == WorkerState::Ready).count()
    }
}

#[test]
fn a_replacement_is_admitted_before_its_predecessor_is_told_to_go() {
    let mut story = Story::serving(limits(2));
    assert_eq!(story.roll(2, B, limits(2)).did(), ["spawn w3 in 1 of b"]);
    assert!(story.tell(Event::Passed(WorkerId(3))).did().is_empty(), "ready, but not for long enough");
    assert_eq!(story.wait(Duration::from_secs(1)).did(), ["admit w3", "exclude w1", "spawn w4 in 2 of b"]);
    assert_eq!(story.tell(Event::Settled(WorkerId(1), OnStop::Caught)).did(), ["stop w1"]);
    assert_eq!(story.ready(4).did(), ["admit w4", "exclude w2"]);
    assert_eq!(story.ended(), [(2, Outcome::Done)], "a rollout does not wait for drains");
    assert_eq!(story.exits(1).did(), ["release w1"]);
}

#[test]
fn a_program_that_dies_of_the_stop_signal_is_left_alone_until_its_connections_are_gone() {
    let mut story = Story::serving(limits(1));
    story.roll(2, B, limits(1)).ready(2);
    assert_eq!(story.tell(Event::Settled(WorkerId(1), OnStop::Fatal)).did(), ["await w1"]);
    assert_eq!(story.tell(Event::Emptied(WorkerId(1))).did(), ["stop w1"]);
}

#[test]
fn a_worker_that_ignores_the_stop_signal_is_killed_after_the_drain_timeout() {
    let mut story = Story::serving(limits(1));
    story.roll(2, B, limits(1)).ready(2);
    story.tell(Event::Settled(WorkerId(1), OnStop::Caught));
    assert!(story.wait(Duration::from_secs(29)).did().is_empty());
    assert_eq!(story.wait(Duration::from_secs(1)).did(), ["kill w1"]);
    assert_eq!(story.tell(Event::Exited(WorkerId(1), Exit::Signal(Signal::KILL))).did(), ["release w1"]);
}

#[test]
fn a_release_that_is_never_ready_costs_nothing() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, limits(2));
    assert_eq!(story.wait(Duration::from_secs(30)).did(), ["stop w3"]);
    assert!(matches!(story.ended()[..], [(2, Outcome::RolledBack(Cause::Worker { slot: Slot(1), .. }))]));
    assert_eq!(story.ready_count(), 2);
}

#[test]
fn a_release_that_fails_on_the_second_slot_is_taken_back_from_the_first_ready_first() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, limits(2)).ready(3);
    assert_eq!(story.exits(4).did(), ["release w4", "spawn w5 in 1 of a"]);
    assert!(story.ended().is_empty());
    assert_eq!(story.ready(5).did(), ["admit w5", "exclude w3"]);
    assert!(matches!(story.ended()[..], [(2, Outcome::RolledBack(_))]));
}

#[test]
fn a_death_during_hold_leaves_the_predecessor_serving() {
    let held = Limits { hold: Duration::from_secs(60), ..limits(1) };
    let mut story = Story::serving(limits(1));
    assert_eq!(story.roll(2, B, held).ready(2).did(), ["admit w2"]);
    assert_eq!(story.exits(2).did(), ["release w2"]);
    assert!(matches!(story.ended()[..], [(2, Outcome::RolledBack(_))]));
    assert_eq!(story.ready_count(), 1);
}

#[test]
fn with_no_surge_the_old_one_goes_first_and_one_slot_at_a_time() {
    let frugal = Limits { max_surge: 0, max_unavailable: 1, ..limits(3) };
    let mut story = Story::serving(frugal.clone());
    assert_eq!(story.roll(2, B, frugal).did(), ["exclude w1", "spawn w4 in 1 of b"]);
    assert_eq!(story.ready(4).did(), ["admit w4", "exclude w2", "spawn w5 in 2 of b"]);
}

#[test]
fn a_storm_of_requests_collapses_into_the_newest() {
    let mut story = Story::serving(limits(1));
    story.roll(2, B, limits(1));
    story.roll(3, C, limits(1));
    story.roll(4, A, limits(1));
    assert_eq!(story.ended(), [(3, Outcome::Superseded { by: RolloutId(4) })]);
    assert_eq!(story.ready(2).did(), ["admit w2", "exclude w1", "spawn w3 in 1 of a"]);
    assert_eq!(story.ready(3).ended(), [(4, Outcome::Done)]);
}

#[test]
fn a_crash_is_answered_at_once_and_a_crash_loop_more_and_more_slowly() {
    let mut story = Story::serving(limits(1));
    assert_eq!(story.exits(1).did(), ["release w1", "spawn w2 in 1 of a"]);
    assert_eq!(story.exits(2).did(), ["release w2"]);
    assert_eq!(story.wait(Duration::from_millis(100)).did(), ["spawn w3 in 1 of a"]);
}

#[test]
fn a_slot_that_fails_too_often_is_given_up_until_the_next_rollout() {
    let mut story =
        Story::serving(Limits { give_up: GiveUp { failures: 2, within: Duration::from_secs(60) }, ..limits(1) });
    story.exits(1);
    assert_eq!(story.exits(2).did(), ["release w2"]);
    assert_eq!(story.service.view().state, ServiceState::Failed);
    assert_eq!(story.service.next_deadline(), None);
    assert_eq!(story.roll(2, B, limits(1)).did(), ["spawn w3 in 1 of b"]);
    assert_eq!(story.ready(3).ended(), [(2, Outcome::Done)]);
}

#[test]
fn a_crash_of_an_old_worker_during_a_rollout_is_healed_with_the_old_release() {
    let mut story = Story::serving(limits(3));
    story.roll(2, B, limits(3));
    assert_eq!(story.exits(3).did(), ["release w3", "spawn w5 in 3 of a"]);
}

#[test]
fn a_failed_rollout_that_pauses_waits_for_a_person() {
    let pausing = Limits { on_failure: OnFailure::Pause, ..limits(2) };
    let mut story = Story::serving(limits(2));
    story.roll(2, B, pausing).ready(3);
    story.exits(4);
    assert_eq!(story.ready_count(), 2);
    assert!(story.wait(Duration::from_secs(600)).did().is_empty());
    assert_eq!(story.tell(Event::Resume).did(), ["spawn w5 in 2 of b"]);
    story.exits(5);
    assert_eq!(story.tell(Event::Abort).did(), ["spawn w6 in 1 of a"]);
    story.ready(6);
    assert!(matches!(story.ended()[..], [(2, Outcome::RolledBack(Cause::Asked))]), "{:?}", story.said);
}

#[test]
fn when_the_way_back_fails_too_a_person_is_needed_and_whoever_serves_goes_on() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, limits(2)).ready(3);
    story.exits(4).exits(5);
    story.wait(Duration::from_secs(1)).exits(6);
    story.wait(Duration::from_secs(1)).exits(7);
    assert!(matches!(story.ended()[..], [(2, Outcome::Stuck(_))]), "{:?}", story.said);
    assert_eq!(story.ready_count(), 2);
}

#[test]
fn a_sick_worker_is_replaced_ready_first() {
    let mut story = Story::serving(limits(2));
    let sick = Event::Sickened(WorkerId(1), Symptom::Unhealthy("503".to_owned()));
    assert_eq!(story.tell(sick).did(), ["exclude w1", "spawn w3 in 1 of a"]);
    assert_eq!(story.ready(3).did(), ["admit w3", "exclude w1"]);
}

#[test]
fn a_sick_worker_gets_connections_only_while_nobody_else_serves() {
    let mut story = Story::serving(limits(2));
    story.sickens(1);
    assert_eq!(story.exits(2).did(), ["release w2", "admit w1", "spawn w4 in 2 of a"]);
    assert_eq!(story.ready(4).did(), ["admit w4", "exclude w1"]);
    let mut story = Story::serving(limits(1));
    story.tell(Event::Scale(2));
    assert_eq!(story.sickens(1).did(), ["spawn w3 in 1 of a"]);
    assert_eq!(story.ready(2).did(), ["admit w2", "exclude w1"]);
}

#[test]
fn a_worker_that_is_held_beside_one_that_sickens_takes_its_place_at_once() {
    let held = Limits { hold: Duration::from_secs(60), ..limits(2) };
    let mut story = Story::serving(limits(2));
    story.roll(2, B, held).ready(3);
    assert_eq!(story.sickens(1).did(), ["exclude w1", "spawn w4 in 2 of b"]);
    assert_eq!(story.exits(4).did(), ["release w4", "spawn w5 in 1 of a"], "w3 serves until w5 does");
}

#[test]
fn a_rollout_is_not_taken_back_onto_a_sick_worker() {
    let mut story = Story::serving(limits(2));
    assert_eq!(story.sickens(1).did(), ["exclude w1", "spawn w3 in 1 of a"]);
    assert_eq!(story.roll(2, B, limits(2)).did(), ["stop w3", "spawn w4 in 1 of b"]);
    assert_eq!(story.tell(Event::Abort).did(), ["stop w4", "spawn w5 in 1 of a"]);
    assert!(story.ended().is_empty(), "slot 1 does not serve");
    assert!(matches!(story.ready(5).ended()[..], [(2, Outcome::RolledBack(_))]));
}

#[test]
fn a_worker_that_sickens_in_a_rollout_that_stands_still_is_replaced() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, Limits { on_failure: OnFailure::Pause, ..limits(2) }).ready(3);
    assert_eq!(story.sickens(3).did(), ["exclude w3", "stop w4", "spawn w5 in 1 of a"]);
    story.tell(Event::Resume);
    assert!(story.ended().is_empty(), "slot 1 does not serve");
}

#[test]
fn sick_workers_do_not_block_a_rollout_that_may_not_surge() {
    let mut story = Story::serving(limits(3));
    story.sickens(1).sickens(2);
    let frugal = Limits { max_surge: 0, max_unavailable: 1, ..limits(3) };
    let did = story.roll(2, B, frugal).did();
    assert_eq!(did, ["stop w4", "stop w5", "exclude w1", "spawn w6 in 1 of b"]);
}

#[test]
fn a_sick_worker_is_replaced_before_the_fit_ones_that_wait_for_it() {
    let mut story = Story::serving(limits(2));
    story.sickens(2);
    let frugal = Limits { max_surge: 0, max_unavailable: 1, ..limits(2) };
    assert_eq!(story.roll(2, B, frugal).did(), ["stop w3", "exclude w2", "spawn w4 in 2 of b"]);
}

#[test]
fn on_the_way_back_a_next_try_waits_for_room_too() {
    let three = Limits { max_draining: 9, ..limits(3) };
    let mut story = Story::serving(three.clone());
    story.roll(2, B, three).ready(4).ready(5);
    assert_eq!(story.tell(Event::Abort).did(), ["stop w6", "spawn w7 in 1 of a"]);
    assert_eq!(story.exits(7).did(), ["release w7", "spawn w8 in 1 of a"]);
    assert_eq!(story.exits(8).did(), ["release w8", "spawn w9 in 2 of a"]);
    assert!(story.wait(Duration::from_millis(100)).did().is_empty(), "N + 1 run");
    assert_eq!(story.ready(9).did(), ["admit w9", "exclude w5", "spawn w10 in 1 of a"]);
}

#[test]
fn on_the_way_back_a_next_try_after_a_hang_waits_for_room_too() {
    let three = Limits { max_draining: 9, ..limits(3) };
    let mut story = Story::serving(three.clone());
    story.roll(2, B, three).ready(4).ready(5).tell(Event::Abort);
    assert_eq!(story.wait(Duration::from_secs(30)).did(), ["stop w7", "kill w6", "spawn w8 in 2 of a"]);
    assert!(story.wait(Duration::ZERO).did().is_empty(), "N + 1 run");
}

#[test]
fn an_empty_slot_is_no_room_for_another_slots_replacement() {
    let both = Limits { max_unavailable: 1, max_draining: 9, ..limits(4) };
    let mut story = Story::serving(both.clone());
    story.roll(2, B, both).ready(5).ready(6).ready(7);
    assert_eq!(story.tell(Event::Abort).did(), ["stop w8", "spawn w9 in 4 of a", "spawn w10 in 1 of a"]);
    assert_eq!(story.exits(9).did(), ["release w9", "spawn w11 in 4 of a"]);
}

#[test]
fn surplus_slots_serve_until_the_rollout_is_taken_back() {
    let spread = Limits { max_unavailable: 2, max_surge: 0, ..limits(4) };
    let mut story = Story::serving(limits(2));
    story.roll(2, B, spread).ready(3).ready(4);
    assert_eq!(story.exits(5).did(), ["release w5", "stop w6", "spawn w7 in 1 of a", "spawn w8 in 2 of a"]);
    assert_eq!(story.ready_count(), 2);
    assert_eq!(story.exits(4).did(), ["release w4"], "nobody is started in a surplus slot");
    story.wait(Duration::from_secs(1));
    assert_eq!(story.service.next_deadline(), Some(story.now.after(Duration::from_secs(29))));
    story.ready(7);
    assert_eq!(story.ready(8).did(), ["admit w8", "exclude w3"]);
}

#[test]
fn a_rollout_that_was_taken_back_leaves_no_surplus_slot_to_the_next_one() {
    let both = Limits { max_unavailable: 1, ..limits(2) };
    let mut story = Story::serving(both.clone());
    story.roll(2, B, both.clone()).ready(4).tell(Event::Abort).roll(3, C, Limits { workers: 1, ..both });
    assert_eq!(story.tell(Event::Scale(1)).did(), ["exclude w4", "stop w5", "spawn w6 in 1 of c"]);
    assert!(matches!(story.ended()[..], [(2, Outcome::RolledBack(_))]));
}

#[test]
fn the_number_of_slots_changes_both_ways() {
    let mut story = Story::serving(limits(1));
    assert_eq!(story.tell(Event::Scale(2)).did(), ["spawn w2 in 2 of a"]);
    story.ready(2);
    assert!(story.said.contains(&Action::Announce(Note::Scaled { workers: 2 })));
    assert_eq!(story.tell(Event::Scale(1)).did(), ["exclude w2"]);
}

#[test]
fn a_surplus_worker_serves_until_the_slots_that_stay_do() {
    let mut story = Story::serving(limits(2));
    story.exits(1);
    assert!(story.tell(Event::Scale(1)).did().is_empty(), "w2 alone serves");
    assert_eq!(story.ready(3).did(), ["admit w3", "exclude w2"]);
}

#[test]
fn a_stopped_service_is_over_when_its_last_worker_is_gone() {
    let mut story = Story::serving(limits(2));
    assert_eq!(story.tell(Event::Stop).did(), ["exclude w1", "exclude w2"]);
    story.exits(1);
    assert_eq!(story.exits(2).did(), ["release w2", "over"]);
}

#[test]
fn the_oldest_generation_is_cut_when_too_many_drain() {
    let slow = Limits { max_generations: 1, drain_timeout: Duration::from_secs(3600), ..limits(1) };
    let mut story = Story::serving(slow.clone());
    story.roll(2, B, slow.clone()).ready(2);
    assert_eq!(story.roll(3, C, slow).ready(3).did(), ["admit w3", "exclude w2", "kill w1"]);
}

#[test]
fn what_is_asked_while_a_rollout_stands_still_is_newer_than_what_waits() {
    let mut story = Story::serving(limits(1));
    story.roll(2, B, limits(1)).roll(3, C, limits(1)).tell(Event::Pause);
    assert_eq!(story.roll(4, A, limits(1)).did(), ["stop w2", "spawn w3 in 1 of a"]);
    let by = RolloutId(4);
    assert_eq!(story.ended(), [(2, Outcome::Superseded { by }), (3, Outcome::Superseded { by })]);
    assert_eq!(story.ready(3).ended(), [(4, Outcome::Done)]);
    assert!(story.service.waiting.is_none() && story.service.rolling.is_none());
}

#[test]
fn a_request_that_waits_behind_a_rollout_that_fails_and_pauses_begins() {
    let mut story = Story::serving(limits(1));
    story.roll(2, B, Limits { on_failure: OnFailure::Pause, ..limits(1) }).roll(3, C, limits(1));
    assert_eq!(story.exits(2).did(), ["release w2", "spawn w3 in 1 of c"]);
    assert_eq!(story.ended(), [(2, Outcome::Superseded { by: RolloutId(3) })]);
}

#[test]
fn a_newcomer_that_is_dismissed_cuts_nobodys_connections() {
    let slow = Limits { max_generations: 1, ..limits(2) };
    let mut story = Story::serving(slow.clone());
    story.roll(2, B, slow).ready(3).tell(Event::Passed(WorkerId(4)));
    assert_eq!(story.sickens(4).did(), ["stop w4", "spawn w5 in 1 of a"], "w1 still drains");
}

#[test]
fn a_new_agent_is_told_what_the_old_one_may_not_have_done() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, limits(2)).ready(3);
    let text = serde_json::to_string(&story.service).expect("write");
    let read: Service = serde_json::from_str(&text).expect("read");
    assert_eq!(read, story.service);
    let again = read.again();
    assert_eq!(again, [Action::Admit(WorkerId(3)), Action::Admit(WorkerId(2)), Action::Exclude(WorkerId(1))]);
}

#[test]
fn a_new_agent_excludes_whoever_was_excluded_and_told_to_go_in_one_step() {
    let hasty = Limits { settle: Duration::ZERO, ..limits(1) };
    let mut story = Story::serving(hasty.clone());
    assert_eq!(story.roll(2, B, hasty).ready(2).did(), ["admit w2", "exclude w1", "stop w1"]);
    let again = [Action::Admit(WorkerId(2)), Action::Exclude(WorkerId(1)), Action::Stop(WorkerId(1))];
    assert_eq!(story.service.again(), again);
}

#[test]
fn foreign_events_change_nothing() {
    let mut story = Story::serving(limits(1));
    let before = story.service.clone();
    let foreign = WorkerId(99);
    for event in [
        Event::Passed(foreign),
        Event::Exited(foreign, Exit::Unknown),
        Event::Settled(foreign, OnStop::Fatal),
        Event::Emptied(WorkerId(1)),
        Event::NeverStarted(foreign),
        Event::Resume,
        Event::Pause,
        Event::Abort,
        Event::Scale(0),
    ] {
        assert!(story.tell(event.clone()).did().is_empty(), "{event:?}");
        assert_eq!(story.service, before, "{event:?}");
    }
}

#[test]
fn a_first_start_brings_its_release_until_it_is_done_or_given_up() {
    let give_up = GiveUp { failures: 1, ..limits(2).give_up };
    let mut story = Story { service: Service::new(), now: Moment(1), said: Vec::new() };
    story.roll(1, A, Limits { give_up, ..limits(2) });
    assert_eq!((story.service.bringing(A), story.service.bringing(B)), (Some(RolloutId(1)), None));
    assert_eq!(story.service.starting(), Some(RolloutId(1)));
    // Whoever wants it again does not want to wait for what was given up.
    story.exits(1);
    assert_eq!((story.service.bringing(A), story.service.starting()), (None, Some(RolloutId(1))));
    let serving = Story::serving(limits(2));
    assert_eq!((serving.service.bringing(A), serving.service.starting()), (None, None));
}

#[test]
fn a_service_that_is_reborn_uses_no_number_again() {
    let mut story = Story::serving(limits(2));
    story.roll(2, B, limits(2));
    story.service = story.service.reborn();
    story.roll(3, A, limits(1));
    assert_eq!(story.did(), ["spawn w4 in 1 of a"]);
    assert_eq!(story.service.view().target.map(|target| target.generation.0), Some(3));
    let mut story = Story { service: Service::new(), now: Moment(1), said: Vec::new() };
    [7, 3].into_iter().for_each(|stranger| story.service.number_on_after(WorkerId(stranger)));
    story.roll(1, A, limits(1));
    assert_eq!(story.did(), ["spawn w8 in 1 of a"]);
}
