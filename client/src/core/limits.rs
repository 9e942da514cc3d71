use ashlar_types::Duration;

/// Bounds and paces of a [`VolumeClient`](super::VolumeClient).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Parts of requests that have a number and no answer (R10). Further ones wait inside, in order.
    pub unanswered_max: usize,
    /// How far the numbers of unanswered parts may lie apart: an OSD keeps that many retry ids of a session at most.
    pub span_max: usize,
    /// A part without an answer for this long is sent again; doubled each time, up to eight times this.
    pub answer_timeout: Duration,
    /// A connection that isn't open and greeted by then is given up.
    pub connect_timeout: Duration,
    /// Between attempts to connect to one OSD; doubled from the first to the second.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
    /// Between attempts to get a PG to take requests, doubled from the first to the second. One part at a time tries.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Between two demands for the view.
    pub view_interval: Duration,
    /// How many damaged answers to one part are asked again before it fails.
    pub damaged_retries_max: u32,
    /// Chunks that one `Extents` request looks at; its answer says how far it went.
    pub extents_chunks_max: u32,
    /// The same for `Layers`, where those in which nothing was ever written cost next to nothing.
    pub layers_chunks_max: u32,
}

impl Default for ClientLimits {
    fn default() -> ClientLimits {
        ClientLimits {
            unanswered_max: 256,
            span_max: 4096,
            answer_timeout: Duration::from_millis(2000),
            connect_timeout: Duration::from_millis(1000),
            reconnect_min: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(250),
            retry_min: Duration::from_millis(1),
            retry_max: Duration::from_millis(50),
            view_interval: Duration::from_millis(100),
            damaged_retries_max: 3,
            extents_chunks_max: 64,
            layers_chunks_max: 256 << 10,
        }
    }
}

/// A pause that doubles with each use until it is reset.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    last: Duration,
}

impl Backoff {
    pub(super) fn pause(&mut self, min: Duration, max: Duration) -> Duration {
        self.last = Duration((self.last.0 * 2).clamp(min.0, max.0));
        self.last
    }

    pub(super) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}
