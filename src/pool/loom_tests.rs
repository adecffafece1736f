//! Models of the way from the monitor to the reporter, and of a loop that leaves a server, checked over
//! every interleaving. Run by `make test-loom`.

use std::time::Duration;

use loom::sync::Notify;

use super::acceptor::LoopIntake;
use super::stuck_reports::{NoRoom, StuckReport, Told};
use crate::event_loop::CallbackEpoch;
use crate::id::IoToken;
use crate::scheduler::{Park, Wake};
use crate::sync::{Arc, Mutex, thread};

/// `Notify` stands for the kernel's event counter: a wake that comes first ends the next wait.
struct Model {
    told: Told,
    kernel: Notify,
}

impl Model {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self { told: Told::new(room), kernel: Notify::new() })
    }

    fn tell(&self, number: u64, ended: bool) -> Result<(), NoRoom> {
        self.told.tell(stuck_report(number, ended)).map(|wake| self.wake(wake))
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Needed {
            self.kernel.notify();
        }
    }

    /// As one round of `StuckReports::wait`. What is slept through leaves it asleep for ever, which loom
    /// reports as a deadlock.
    fn wait(&self) -> Option<Vec<StuckReport>> {
        if let Park::Sleep(_parked) = self.told.park() {
            self.kernel.wait();
        }
        self.told.take()
    }

    /// Hears all, until the end.
    fn report(&self) -> Vec<StuckReport> {
        let mut heard = Vec::new();
        while let Some(mut taken) = self.wait() {
            heard.append(&mut taken);
        }
        heard
    }

    fn hear_one(&self) -> StuckReport {
        loop {
            if let Some(stuck_report) = self.wait().and_then(|mut taken| taken.pop()) {
                return stuck_report;
            }
        }
    }
}

fn stuck_report(number: u64, ended: bool) -> StuckReport {
    StuckReport {
        worker_index: 0,
        epoch: CallbackEpoch::from_number(number),
        lasted: Duration::ZERO,
        ended,
    }
}

#[test]
fn loom_all_that_is_told_is_heard_in_order_and_then_the_end() {
    loom::model(|| {
        let model = Model::new(2);
        let monitor = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                assert_eq!(model.tell(1, false), Ok(()));
                assert_eq!(model.tell(1, true), Ok(()));
                model.wake(model.told.end());
            })
        };
        assert_eq!(model.report(), [stuck_report(1, false), stuck_report(1, true)]);
        monitor.join().unwrap();
    });
}

/// The end does not come: nothing but the stuck report itself wakes the reporter.
#[test]
fn loom_an_incident_alone_is_not_slept_through() {
    loom::model(|| {
        let model = Model::new(1);
        let monitor = {
            let model = Arc::clone(&model);
            thread::spawn(move || assert_eq!(model.tell(1, false), Ok(())))
        };
        assert_eq!(model.hear_one(), stuck_report(1, false));
        monitor.join().unwrap();
    });
}

/// The pool's end comes from another thread than the monitor, when that has ended.
#[test]
fn loom_an_end_from_another_thread_loses_nothing() {
    loom::model(|| {
        let model = Model::new(1);
        let monitor = {
            let model = Arc::clone(&model);
            thread::spawn(move || assert_eq!(model.tell(1, true), Ok(())))
        };
        let reporter = {
            let model = Arc::clone(&model);
            thread::spawn(move || model.report())
        };
        monitor.join().unwrap();
        model.wake(model.told.end());
        assert_eq!(reporter.join().unwrap(), [stuck_report(1, true)]);
    });
}

/// A begin that finds no room is told of later or never; one that was told is heard once.
#[test]
fn loom_a_begin_without_room_is_not_told() {
    loom::model(|| {
        let model = Model::new(1);
        let monitor = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let mut told = Vec::new();
                for number in 1..=2 {
                    if model.tell(number, false).is_ok() {
                        told.push(stuck_report(number, false));
                    }
                }
                model.wake(model.told.end());
                told
            })
        };
        let heard = model.report();
        assert_eq!(monitor.join().unwrap(), heard);
        assert_eq!(heard[0], stuck_report(1, false));
    });
}

/// What is placed on a loop has been placed when its intake is shut: nothing comes after the last look.
#[test]
fn loom_nothing_is_placed_behind_a_shut_intake() {
    loom::model(|| {
        let loop_ = Arc::new((LoopIntake::default(), Mutex::new(0)));
        loop_.0.open(IoToken::of_source(7, 1));
        let placers: Vec<_> = (0..2)
            .map(|_| {
                let loop_ = Arc::clone(&loop_);
                thread::spawn(move || {
                    let (intake, inbox) = &*loop_;
                    intake.enter().is_some_and(|_inside| {
                        *inbox.lock() += 1;
                        true
                    })
                })
            })
            .collect();
        let (intake, inbox) = &*loop_;
        intake.shut();
        let seen = *inbox.lock();
        let placed = placers.into_iter().map(|placer| placer.join().unwrap());
        assert_eq!(placed.filter(|placed| *placed).count(), seen);
        assert_eq!(*inbox.lock(), seen);
    });
}
