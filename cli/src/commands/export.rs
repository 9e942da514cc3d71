//! `ashlar volume export`: makes a file of a volume or a snapshot.

use crate::args::ExportArgs;
use crate::control::Control;
use crate::error::{CliError, reasons};
use crate::output::{Output, note};
use crate::transfer::{Content, CopyError, Disk, PIECE_BYTES, Piece, Progress, Sink, SinkError, WINDOW, interrupts};
use ashlar_types::control::AttachMode;
use ashlar_types::{BlockError, format_bytes};
use serde_json::json;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// How long an interrupted command waits for what it writes to.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);
/// How much is asked about at a time.
const EXTENTS_BYTES: u64 = 1 << 30;

pub async fn run(control: &Control, args: ExportArgs) -> Result<Output, CliError> {
    let format = args.format();
    let ExportArgs { disk: name, file, force, .. } = args;
    let failed = |error: CopyError| CliError::Export { name: name.to_string(), reason: reasons(&error) };
    let mut interrupt = interrupts()?;
    let mode = if name.snapshot.is_some() { AttachMode::Shared } else { AttachMode::Exclusive };
    let disk = Disk::attach(
        control,
        &name,
        format!("{}-{}", Disk::gateway_name("export", &name), std::process::id()),
        mode,
        true,
    )
    .await?;
    let mut progress = Progress::new(format!("exporting {name}"), disk.size());
    let (to, size) = (file.clone(), disk.size());
    let sink = spawn_blocking(move || Sink::create(&to, format, size, force)).await;
    let copied = match sink.map_err(CopyError::from).and_then(|made| Ok(made?)) {
        Ok(sink) => copy(&disk, sink, &mut interrupt, &mut progress).await,
        Err(error) => Err(error),
    };
    progress.end();
    let detached = disk.detach().await;
    let data = copied.map_err(failed)?;
    detached?;
    let seconds = progress.elapsed().as_secs_f64();
    let text = format!(
        "{name} exported as a {format} image: {}, {} of data, in {seconds:.1} s",
        format_bytes(size),
        format_bytes(data)
    );
    if file.as_os_str() == "-" {
        // Standard output has the disk.
        note(&text);
        return Ok(Output::silent());
    }
    let value = json!({
        "name": name.to_string(), "file": file, "size": size, "format": format.to_string(), "data_bytes": data, "seconds": seconds,
    });
    Ok(Output::new(text, value))
}

/// The next pieces, in the order of the disk.
enum Next {
    Zero { offset: u64, len: u64 },
    Read { offset: u64, data: JoinHandle<Result<bytes::Bytes, BlockError>> },
}

/// Gives the bytes that are not surely zero.
async fn copy(disk: &Disk, mut sink: Sink, interrupt: &mut Signal, progress: &mut Progress) -> Result<u64, CopyError> {
    let (sender, mut pieces) = mpsc::channel::<Piece>(WINDOW);
    let mut writer = spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            sink.put(piece)?;
        }
        Ok::<Sink, SinkError>(sink)
    });
    let read = tokio::select! {
        read = read_all(disk, sender, progress) => read,
        _ = interrupt.recv() => Err(CopyError::Interrupted),
    };
    let ended = match read {
        Err(CopyError::Interrupted) => None,
        _ => tokio::select! {
            ended = &mut writer => Some(ended),
            _ = interrupt.recv() => None,
        },
    };
    let Some(ended) = ended else {
        // Where it writes to may take nothing for ever. What it has made is gone when it ends in time.
        return match tokio::time::timeout(WRITER_PATIENCE, writer).await {
            Ok(Ok(Err(error))) => Err(error.into()),
            _ => Err(CopyError::Interrupted),
        };
    };
    // What it met comes first, since the reader then met only that.
    let sink = ended??;
    let data = read?;
    spawn_blocking(move || sink.finish()).await??;
    Ok(data)
}

async fn read_all(disk: &Disk, sender: mpsc::Sender<Piece>, progress: &mut Progress) -> Result<u64, CopyError> {
    let (mut at, size, mut data_bytes) = (0, disk.size(), 0);
    let mut queue = Queue { under_way: VecDeque::new(), sender, progress };
    while at < size {
        let extents = disk.extents(at, (size - at).min(EXTENTS_BYTES)).await;
        for extent in extents.map_err(|source| CopyError::Volume { offset: at, source })? {
            let end = at + extent.len;
            if extent.zero {
                queue.push(Next::Zero { offset: at, len: extent.len }).await?;
                at = end;
                continue;
            }
            data_bytes += extent.len;
            while at < end {
                let len = u32::try_from((end - at).min(u64::from(PIECE_BYTES))).expect("a piece");
                let (from, offset) = (disk.clone(), at);
                let data = tokio::spawn(async move { from.read(offset, len).await });
                queue.push(Next::Read { offset, data }).await?;
                at += u64::from(len);
            }
        }
    }
    while let Some(next) = queue.under_way.pop_front() {
        queue.hand_out(next).await?;
    }
    Ok(data_bytes)
}

/// Reads under way, in order.
struct Queue<'a> {
    under_way: VecDeque<Next>,
    sender: mpsc::Sender<Piece>,
    progress: &'a mut Progress,
}

impl Queue<'_> {
    async fn push(&mut self, next: Next) -> Result<(), CopyError> {
        self.under_way.push_back(next);
        if self.under_way.len() > WINDOW
            && let Some(first) = self.under_way.pop_front()
        {
            self.hand_out(first).await?;
        }
        Ok(())
    }

    async fn hand_out(&mut self, next: Next) -> Result<(), CopyError> {
        let piece = match next {
            Next::Zero { offset, len } => Piece { offset, content: Content::Zero(len) },
            Next::Read { offset, data } => {
                let data = data.await?.map_err(|source| CopyError::Volume { offset, source })?;
                Piece { offset, content: Content::Data(data) }
            }
        };
        let len = piece.len();
        // The writer has ended: it says why.
        self.sender.send(piece).await.map_err(|_| CopyError::Interrupted)?;
        self.progress.add(len);
        Ok(())
    }
}
