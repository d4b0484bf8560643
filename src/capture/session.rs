//! One session of capture, in the order that exactly once rests on: **slot, fence, read progress, publish**.
//!
//! The slot first: the server gives it to one session alone. Then the fence: `init_transactions` aborts what a predecessor
//! left open, and a predecessor that was only stopped can commit nothing when it wakes up (KIP-98; idempotence alone does
//! not do that). Only then is what was read as committed the last word, and publishing goes on from there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use highwater_kafka::{Admin, AlternatingProducer, Isolation, ProducerError, ProducerSettings, last_record};
use highwater_postgres::replication::{
    ReplicationStream, SlotState, StartOptions, Streaming, SystemIdentity, Timelines,
};
use highwater_postgres::{ConnectConfig, Connection, Lsn, Session as Kind, quote};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use super::branch::Branch;
use super::error::Error;
use super::feeds::{Feeds, through_part};
use super::foreign::Foreign;
use super::lost::{read_phantoms_again, restore_records};
use super::progress::Progress;
use super::publisher::{Publisher, QUEUE_BYTES, QUEUE_RECORDS};
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::spill::{Limits, Spill};
use super::start::{Lost, Serving, SlotState as Place, Start, decide_start};
use super::tables::{Described, describe_published};
use super::through::{Memory, Step};
use super::work::Work;
use crate::config::{Server, Source};
use crate::events::mapping::spec::{EntrySpec, PartSpec};
use crate::position::{Bound, Position};
use crate::topics::Topics;

/// Longest time between two commits of one Kafka transaction: the broker's own limit
/// (`transaction.max.timeout.ms`, 15 minutes by default). A source transaction is never split over two.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(15);

/// What a session is made of.
pub(super) struct Plan<'a> {
    pub(super) source: &'a Source,
    pub(super) settings: &'a Settings,
    pub(super) topics: &'a Topics,
    /// For the parts of the Kafka client that are asynchronous; capture itself runs on a thread of its own.
    pub(super) runtime: &'a Handle,
    /// Whether the server hands out transactions in progress.
    pub(super) streaming: bool,
    /// Whether a session of this process has worked, or another capture was at work: the configuration was right then.
    pub(super) worked: bool,
    /// Whether a slot was dropped because its log could not be decoded. A second would not be better.
    pub(super) replaced: bool,
}

/// A session that may publish.
pub(super) struct Session {
    pub(super) stream: ReplicationStream,
    pub(super) work: Work,
}

impl Plan<'_> {
    /// Opens a session.
    ///
    /// # Errors
    /// A server that cannot be reached or refuses, a slot that another capture holds, a mapping that does not fit, or a
    /// slot and progress that do not fit together.
    pub(super) fn open(&self) -> Result<Session, Error> {
        let timeout = self.settings.answer_timeout;
        let config = config_of(&self.source.database)?;
        let mut replication = Connection::connect(&config_of(self.source.log())?, Kind::Replication)?;
        let system = replication.identify_system(timeout)?;
        let mut primary = self.primary(&config)?;
        // Before anything is made.
        self.our_slot(&mut replication, &system)?;
        self.make_topics()?;
        let feeds = self.check_mapping(&mut primary)?;
        let spill = self.spill()?;
        let timelines = replication.timelines(system.timeline, timeout)?;
        let mut branch = self.branch(&mut replication, &system, timelines.clone(), &mut primary)?;
        let source_system = system.system_identifier.to_string();

        // The order matters; see above. Progress is read twice: before, to refuse without harm, and after the fence.
        let decided = match self.decide(&mut replication, &timelines, &system) {
            Err(Error::Lost { lost: Lost::Gap { .. } | Lost::Progress { .. }, .. }) => {
                // A broker that died right behind a commit shows it, or all of it, only when its transaction was completed, which
                // the fence waits for. Nobody has the slot, so nobody is fenced who should not be.
                drop(self.fence()?);
                self.decide(&mut replication, &timelines, &system)
            }
            decided => decided,
        };
        let (start, gap) = match decided {
            Err(Error::Lost { lost, .. }) if self.goes_on_behind(&lost) => {
                (self.start_behind(&lost, &mut replication)?, Some(lost))
            }
            decided => (decided?, None),
        };
        let slot_bound = self.make_slot_if_fresh(&mut replication, &mut primary, &mut branch, &start)?;
        let address = replication.address().to_owned();
        let stream = self.take_slot(replication)?;
        let producer = self.fence()?;
        let mut progress = match (self.read_progress()?, slot_bound) {
            (Some(progress), _) => progress,
            (None, Some(bound)) => Progress::beginning(source_system, bound, self.topics.partitions.unsigned_abs()),
            (None, None) => {
                let topic = self.topics.progress();
                return Err(Error::Unexpected(format!("topic `{topic}` lost its progress while capture started")));
            }
        };
        // What a promotion lost comes first: what is missing behind it begins there.
        let mut named = Vec::from_iter(read_phantoms_again(&mut progress, &timelines, &feeds));
        if let (Some(lost), Some(bound)) = (gap, slot_bound) {
            named.push(self.go_on_behind(&lost, &address, bound, &mut progress, &feeds)?);
        }
        if let Some(lost) = self.compare_with_topics(&mut progress)? {
            if !self.goes_on_behind(&lost) {
                return Err(self.refused(lost));
            }
            named.push(restore_records(&lost, &mut progress, &feeds));
        }
        info!(bound = %progress.bound, timeline = system.timeline, "capture goes on from here");
        let mut session = self.publishing(&config, primary, stream, producer, progress, feeds, branch, spill)?;
        let publisher = &mut session.work.publisher;
        let bound = publisher.progress.bound;
        let at = Position { timeline: bound.timeline(), lsn: bound.lsn(), seq: 0 };
        named.iter().try_for_each(|missing| publisher.dead_letter(at, "*", missing))?;
        if !named.is_empty() {
            // Before anything else: what this session sends and does not commit could hide that records are gone.
            publisher.commit_progress()?;
        }
        Ok(session)
    }

    fn primary(&self, config: &ConnectConfig) -> Result<Connection, Error> {
        let mut primary = Connection::connect(config, Kind::Ordinary)?;
        if !primary.in_recovery(self.settings.answer_timeout)? {
            return Ok(primary);
        }
        let refused = format!(
            "{} is a standby; point [source] database at the primary, and standby at the one whose log is to be read",
            primary.address()
        );
        // A server that is just promoted is one for a moment.
        let may_pass = self.worked || self.source.standby.is_some();
        Err(if may_pass { Error::NotOneLog(refused) } else { Error::Setup(refused) })
    }

    fn make_topics(&self) -> Result<(), Error> {
        let admin = Admin::new(&self.topics.connection("highwater-capture"))?;
        let specs = self.topics.specs();
        let differences = self.runtime.block_on(admin.ensure_topics(&specs, self.settings.answer_timeout))?;
        if differences.is_empty() {
            return Ok(());
        }
        let list =
            differences.iter().map(|difference| format!("{difference}: {}", difference.remedy(&self.topics.brokers)));
        Err(Error::TopicSettings(list.collect::<Vec<_>>().join("; ")))
    }

    fn check_mapping(&self, primary: &mut Connection) -> Result<Feeds, Error> {
        let described = describe_published(primary, &self.source.publication, self.settings.answer_timeout)?;
        if described.is_empty() {
            let publication = quote::identifier(&self.source.publication);
            let message = format!(
                "publication {publication} is missing or holds no table: run `CREATE PUBLICATION {publication} FOR TABLE …`"
            );
            return Err(Error::Setup(message));
        }
        if !self.worked {
            return Feeds::check(&self.source.map, described).map_err(Error::Mapping);
        }
        // A table was altered meanwhile: that one stops, and the others go on.
        if let Err(errors) = Feeds::check(&self.source.map, described.clone()) {
            error!(error = %Error::Mapping(errors), "capture goes on with the other tables");
        }
        Ok(Feeds::unchecked(&self.source.map, described))
    }

    /// Makes room for transactions in progress, if the server hands them out.
    fn spill(&self) -> Result<Option<Spill>, Error> {
        if !self.streaming {
            return Ok(None);
        }
        let folder = self.settings.spill_folder_of(&self.source.name);
        Ok(Some(Spill::open(&folder, Limits::with_disk(self.settings.spill_bytes))?))
    }

    fn read_progress(&self) -> Result<Option<Progress>, Error> {
        let connection = self.topics.connection("highwater-capture");
        let topic = self.topics.progress();
        let timeout = self.settings.answer_timeout;
        let record = self.runtime.block_on(last_record(&connection, &topic, 0, Isolation::ReadCommitted, timeout))?;
        let Some(value) = record.and_then(|record| record.value) else { return Ok(None) };
        let progress = serde_json::from_slice(&value);
        progress
            .map(Some)
            .map_err(|error| Error::Unexpected(format!("the newest record of topic `{topic}` is no progress: {error}")))
    }

    /// Returns the slot if there is one. One that is not for us to use is refused: going on behind it would drop it.
    fn our_slot(&self, replication: &mut Connection, system: &SystemIdentity) -> Result<Option<SlotState>, Error> {
        let slot = replication.slot(&self.source.slot, self.settings.answer_timeout)?;
        match slot.as_ref().and_then(|slot| Foreign::of(slot, system.database.as_deref())) {
            Some(foreign) => {
                let (slot, server, remedy) = (&self.source.slot, replication.address(), Foreign::REMEDY);
                Err(Error::Setup(format!("slot `{slot}` on {server} belongs to another use: {foreign}; {remedy}")))
            }
            None => match slot.as_ref().and_then(|slot| slot.active_pid) {
                Some(pid) => Err(Error::SlotBusy { slot: self.source.slot.clone(), pid }),
                None => Ok(slot),
            },
        }
    }

    fn decide(
        &self,
        replication: &mut Connection,
        timelines: &Timelines,
        system: &SystemIdentity,
    ) -> Result<Start, Error> {
        // The slot before the progress: what it was told is durable stands in the topics then. The other way round, another
        // capture that works and dies in between would look like a gap.
        let slot = self.our_slot(replication, system)?;
        let state = Place::of(slot.as_ref(), timelines);
        let progress = self.read_progress()?;
        if progress.is_none()
            && let Some(topic) = self.topic_with_events()?
        {
            if self.read_progress()?.is_none() {
                return Err(self.refused(Lost::Progress { topic, progress: self.topics.progress() }));
            }
            // Another capture began meanwhile, and has a slot.
            return self.decide(replication, timelines, system);
        }
        let address = replication.address().to_owned();
        let identifier = system.system_identifier.to_string();
        let from =
            Serving { slot: &self.source.slot, server: &address, system: &identifier, timeline: timelines.current() };
        decide_start(from, &self.topics.progress(), state, progress).map_err(|lost| self.refused(lost))
    }

    pub(super) fn refused(&self, lost: Lost) -> Error {
        let choices = lost.choices(&self.topics.prefix);
        Error::Lost { lost, choices }
    }

    /// Returns where a slot without progress begins.
    fn make_slot_if_fresh(
        &self,
        replication: &mut Connection,
        primary: &mut Connection,
        branch: &mut Branch,
        start: &Start,
    ) -> Result<Option<Bound>, Error> {
        match start {
            Start::Resume(_) => Ok(None),
            Start::AtSlot(bound) => Ok(Some(*bound)),
            Start::Fresh => {
                let slot = self.make_slot(replication, primary)?;
                info!(slot = slot.name, at = %slot.consistent_point, "slot made");
                let timeline = branch.timeline_of(slot.consistent_point)?;
                Ok(Some(Bound::at_lsn(timeline, slot.consistent_point.0)))
            }
        }
    }

    /// Takes the slot: from here on no other session of the server can.
    fn take_slot(&self, replication: Connection) -> Result<ReplicationStream, Error> {
        let options = StartOptions {
            slot: &self.source.slot,
            // The server goes on from what was acknowledged.
            start: Lsn::ZERO,
            publications: &[&self.source.publication],
            // Taken down to what the server's version has.
            streaming: if self.streaming { Streaming::Parallel } else { Streaming::Off },
        };
        Ok(replication.start_replication(&options, self.settings.answer_timeout)?)
    }

    /// Fences every predecessor: what it left open is aborted, and it can commit nothing more.
    fn fence(&self) -> Result<AlternatingProducer, Error> {
        let connection = self.topics.connection("highwater-capture");
        let mut settings = ProducerSettings::new(format!("highwater-{}-{}", self.source.name, self.topics.prefix));
        settings.linger = self.settings.linger;
        settings.transaction_timeout = TRANSACTION_TIMEOUT;
        settings.message_timeout = self.settings.answer_timeout;
        settings.queue_records = QUEUE_RECORDS;
        settings.queue_bytes = QUEUE_BYTES;
        let producer = AlternatingProducer::new(&connection, &settings)?;
        let deadline = Instant::now() + self.settings.answer_timeout;
        loop {
            match producer.init(self.settings.answer_timeout) {
                Ok(()) => return Ok(producer),
                Err(ProducerError::Transient { reason }) if Instant::now() < deadline => {
                    warn!(reason, "fencing takes longer");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each part of a session, in the order in which it was made")]
    fn publishing(
        &self,
        config: &ConnectConfig,
        mut primary: Connection,
        stream: ReplicationStream,
        producer: AlternatingProducer,
        progress: Progress,
        feeds: Feeds,
        branch: Branch,
        spill: Option<Spill>,
    ) -> Result<Session, Error> {
        let timeout = self.settings.answer_timeout;
        let through = Memory::load(steps(&self.source.map, feeds.described()), &mut primary, timeout)?;
        let (settings, ledger, publication) = (self.settings, &progress.snapshot, &self.source.publication);
        let snapshot = Snapshot::begin(config, settings, self.topics, self.runtime, publication, &feeds, ledger);
        let publisher = Publisher::new(producer, self.topics, &self.source.name, progress, self.settings);
        let work = Work {
            publisher,
            snapshot,
            primary,
            feeds,
            through,
            branch,
            publication: publication.clone(),
            history: self.settings.history,
            timeout,
            transaction: None,
            inside: false,
            spill,
            piece: 0,
        };
        Ok(Session { stream, work })
    }
}

/// Returns how capture reaches one of its servers.
pub(super) fn config_of(server: &Server) -> Result<ConnectConfig, Error> {
    let config = server.postgres("highwater capture");
    let config = config.map_err(|error| Error::Setup(error.to_string()))?;
    // Short, so that a capture that hangs gives the slot up within seconds for the one that stands by.
    let config = config.with_parameter("wal_sender_timeout", "10s");
    // Its own commits move the log for the snapshot and hold nothing that a standby must have first.
    Ok(config.with_parameter("synchronous_commit", "local"))
}

/// Returns how to ask for parts that stand one step away.
fn steps(map: &[EntrySpec], described: &HashMap<u32, Described>) -> HashMap<String, Step> {
    let mut steps = HashMap::new();
    for spec in map {
        let PartSpec::Through { through, .. } = &spec.part.value else { continue };
        let table = described.values().find(|described| described.plain_name() == *through);
        let (Some(table), Some((part, _))) = (table, through_part(through, map, described)) else { continue };
        let columns = table.table();
        let [key] = columns.primary_key[..] else { continue };
        let step = Step {
            table: quote::qualified(&table.schema, &table.name),
            key: quote::identifier(&columns.columns[key].name),
            part: quote::identifier(&part),
        };
        steps.insert(through.clone(), step);
    }
    steps
}
