//! Golden bytes: what stands on the wire, spelled out by hand from the specification.

use super::spec::*;
use super::*;
use ashlar_types::{BlockError, DeviceInfo, Extent, LayerExtent, LayerId, LayerPlace};
use bytes::{BufMut, BytesMut};

const ALLOCATION: Contexts = Contexts { allocation: true, depth: false };
const GREETING: &str = "4e42444d41474943 49484156454f5054 0003";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).expect("filtered") as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn disk(read_only: bool) -> DeviceInfo {
    DeviceInfo { size: 0x10_0000, read_only, description: "a disk".to_owned() }
}

/// A session after the client's flags, and what it has said since.
fn haggling(client_flags: u32) -> (Session, BytesMut) {
    let mut out = BytesMut::new();
    let mut session = Session::new(&mut out);
    assert_eq!(out, hex(GREETING));
    out.clear();
    let mut input = BytesMut::from(&client_flags.to_be_bytes()[..]);
    assert_eq!(session.on_bytes(&mut input, &mut out), Ok(Event::Answered));
    assert_eq!(session.on_bytes(&mut input, &mut out), Ok(Event::Incomplete));
    (session, out)
}

fn option(kind: u32, data: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u64(IHAVEOPT);
    bytes.put_u32(kind);
    bytes.put_u32(data.len() as u32);
    bytes.extend_from_slice(data);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
}

/// Sends an option that is answered without the shell's help.
fn answered(session: &mut Session, kind: u32, data: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    assert_eq!(session.on_bytes(&mut option(kind, data), &mut out), Ok(Event::Answered));
    out
}

/// Sends an option that names an export, which the shell has.
fn opened(session: &mut Session, kind: u32, data: &[u8], info: &DeviceInfo) -> (Option<ReplyStyle>, BytesMut) {
    let mut out = BytesMut::new();
    let event = session.on_bytes(&mut option(kind, data), &mut out).expect("a good option");
    assert!(matches!(event, Event::Open(_)), "{event:?}");
    let style = session.on_opened(Ok(info), &mut out).expect("the export is there");
    (style, out)
}

/// The reply types of the option replies in `out`.
fn reply_types(mut out: &[u8]) -> Vec<u32> {
    let mut types = Vec::new();
    while !out.is_empty() {
        assert_eq!(out[..8], NBD_OPT_REPLY_MAGIC.to_be_bytes());
        types.push(u32::from_be_bytes(out[12..16].try_into().expect("four bytes")));
        let len = u32::from_be_bytes(out[16..20].try_into().expect("four bytes")) as usize;
        out = &out[20 + len..];
    }
    types
}

fn transmitting(structured: bool, allocation: bool, info: &DeviceInfo) -> Session {
    let (mut session, _) = haggling(3);
    if structured {
        answered(&mut session, NBD_OPT_STRUCTURED_REPLY, &[]);
    }
    if allocation {
        let data = [string("d"), vec![0, 0, 0, 1], string("base:allocation")].concat();
        opened(&mut session, NBD_OPT_SET_META_CONTEXT, &data, info);
    }
    let (style, _) = opened(&mut session, NBD_OPT_GO, &[string("d"), vec![0, 0]].concat(), info);
    assert_eq!(style, Some(ReplyStyle { structured }));
    session
}

fn request(flags: u16, kind: u16, offset: u64, len: u32) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u32(NBD_REQUEST_MAGIC);
    bytes.put_u16(flags);
    bytes.put_u16(kind);
    bytes.put_u64(0xc00c1e);
    bytes.put_u64(offset);
    bytes.put_u32(len);
    bytes
}

/// What becomes of one request, its size looked up when asked for.
fn event(session: &mut Session, mut bytes: BytesMut, size: u64) -> Event {
    let mut out = BytesMut::new();
    let mut event = session.on_bytes(&mut bytes, &mut out).expect("no violation");
    if event == Event::Size {
        session.on_size(size);
        event = session.on_bytes(&mut bytes, &mut out).expect("no violation");
    }
    assert!(out.is_empty() && bytes.is_empty());
    event
}

fn error_of(event: &Event) -> u32 {
    match event {
        Event::Refused { cookie: 0xc00c1e, failure } => failure.error,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn export_name_is_answered_with_size_flags_and_padding_unless_waived() {
    for (client_flags, padding) in [(1, 124), (3, 0)] {
        let (mut session, _) = haggling(client_flags);
        let (style, out) = opened(&mut session, NBD_OPT_EXPORT_NAME, b"d", &disk(false));
        assert_eq!(style, Some(ReplyStyle { structured: false }));
        let mut expected = hex("0000000000100000 096d");
        expected.resize(10 + padding, 0);
        assert_eq!(out, expected);
    }
}

#[test]
fn go_tells_all_that_was_asked_for() {
    let (mut session, _) = haggling(3);
    assert_eq!(answered(&mut session, 8, &[]), hex("0003e889045565a9 00000008 00000001 00000000"));
    let wanted = hex("00000001 64 0004 0001 0002 0003 00ff");
    let (style, out) = opened(&mut session, NBD_OPT_GO, &wanted, &disk(false));
    assert_eq!(style, Some(ReplyStyle { structured: true }));
    let expected = [
        "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 09ed",
        "0003e889045565a9 00000007 00000003 00000003 0001 64",
        "0003e889045565a9 00000007 00000003 00000008 0002 61206469736b",
        "0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000",
        "0003e889045565a9 00000007 00000001 00000000",
    ];
    assert_eq!(out, hex(&expected.concat()));
}

#[test]
fn info_leaves_the_handshake_going_and_tells_only_what_was_asked_for() {
    let (mut session, _) = haggling(3);
    let (style, out) = opened(&mut session, NBD_OPT_INFO, &[string("d"), vec![0, 0]].concat(), &disk(true));
    assert_eq!(style, None);
    let expected = [
        "0003e889045565a9 00000006 00000003 0000000c 0000 0000000000100000 010f",
        "0003e889045565a9 00000006 00000001 00000000",
    ];
    assert_eq!(out, hex(&expected.concat()));
}

#[test]
fn list_names_and_describes_each_export() {
    let (mut session, mut out) = haggling(3);
    assert_eq!(session.on_bytes(&mut option(NBD_OPT_LIST, &[]), &mut out), Ok(Event::List));
    session.on_exports(Ok([("a", ""), ("bc", "d")].into_iter()), &mut out);
    let expected = [
        "0003e889045565a9 00000003 00000002 00000005 00000001 61",
        "0003e889045565a9 00000003 00000002 00000007 00000002 6263 64",
        "0003e889045565a9 00000003 00000001 00000000",
    ];
    assert_eq!(out, hex(&expected.concat()));
}

#[test]
fn abort_is_acknowledged_then_ends_the_connection() {
    let (mut session, mut out) = haggling(3);
    assert_eq!(session.on_bytes(&mut option(NBD_OPT_ABORT, b"ignored"), &mut out), Ok(Event::Disconnect));
    assert_eq!(out, hex("0003e889045565a9 00000002 00000001 00000000"));
}

#[test]
fn options_that_cannot_be_are_refused_and_the_next_one_is_heard() {
    let (mut session, _) = haggling(3);
    let too_long = vec![0; OPTION_BYTES_MAX as usize + 1];
    let garbage = [string("d"), vec![0, 9]].concat();
    let cases: [(u32, &[u8], u32); 11] = [
        (NBD_OPT_STARTTLS, &[], NBD_REP_ERR_UNSUP),
        (NBD_OPT_STARTTLS, b"x", NBD_REP_ERR_INVALID),
        (11, &[], NBD_REP_ERR_UNSUP), // NBD_OPT_EXTENDED_HEADERS
        (4, b"peek", NBD_REP_ERR_UNSUP),
        (0xffff_ffff, &too_long, NBD_REP_ERR_UNSUP),
        (NBD_OPT_LIST, b"x", NBD_REP_ERR_INVALID),
        (NBD_OPT_STRUCTURED_REPLY, b"x", NBD_REP_ERR_INVALID),
        (NBD_OPT_GO, &garbage, NBD_REP_ERR_INVALID),
        (NBD_OPT_INFO, &[], NBD_REP_ERR_INVALID),
        (NBD_OPT_INFO, &too_long, NBD_REP_ERR_TOO_BIG),
        (NBD_OPT_SET_META_CONTEXT, &[], NBD_REP_ERR_INVALID), // before structured replies
    ];
    for (kind, data, expected) in cases {
        assert_eq!(reply_types(&answered(&mut session, kind, data)), [expected], "option {kind}");
    }
    assert_eq!(reply_types(&answered(&mut session, NBD_OPT_STRUCTURED_REPLY, &[])), [NBD_REP_ACK]);
}

#[test]
fn an_option_longer_than_the_limit_passes_by_without_being_kept() {
    let (mut session, mut out) = haggling(3);
    let mut input = option(NBD_OPT_GO, &[]);
    input[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut left = u64::from(u32::MAX);
    while left > 0 {
        assert_eq!(session.on_bytes(&mut input, &mut out), Ok(Event::Incomplete));
        assert!(input.is_empty(), "S2");
        let now = left.min(1 << 26);
        input.resize(now as usize, 0);
        left -= now;
    }
    assert_eq!(session.on_bytes(&mut input, &mut out), Ok(Event::Answered));
    assert_eq!(reply_types(&out), [NBD_REP_ERR_TOO_BIG]);
}

#[test]
fn exports_that_cannot_be_had_are_refused_with_the_reason() {
    let refusals = [
        (OpenError::Unknown("who?".to_owned()), NBD_REP_ERR_UNKNOWN),
        (OpenError::Busy("taken".to_owned()), NBD_REP_ERR_POLICY),
        (OpenError::Unavailable("no answer".to_owned()), NBD_REP_ERR_POLICY),
        (OpenError::ShuttingDown, NBD_REP_ERR_SHUTDOWN),
    ];
    for (refusal, expected) in refusals {
        let (mut session, mut out) = haggling(3);
        let go = option(NBD_OPT_GO, &[string("d"), vec![0, 0]].concat());
        assert_eq!(session.on_bytes(&mut go.clone(), &mut out), Ok(Event::Open("d".to_owned())));
        assert_eq!(session.on_opened(Err(refusal.clone()), &mut out), Ok(None));
        assert_eq!(reply_types(&out), [expected]);
        assert!(out.ends_with(refusal.to_string().as_bytes()));
        let mut name = option(NBD_OPT_EXPORT_NAME, b"d");
        assert_eq!(session.on_bytes(&mut name, &mut out), Ok(Event::Open("d".to_owned())));
        assert_eq!(session.on_opened(Err(refusal.clone()), &mut out), Err(Violation::ExportRefused(refusal)));
    }
}

#[test]
fn contexts_are_selected_by_exact_name_and_for_one_export() {
    let query = |queries: &[&str]| {
        let mut data = [string("d"), (queries.len() as u32).to_be_bytes().to_vec()].concat();
        queries.iter().for_each(|query| data.extend(string(query)));
        data
    };
    let found = |contexts: usize| {
        let replies = std::iter::repeat_n(NBD_REP_META_CONTEXT, contexts);
        replies.chain([NBD_REP_ACK]).collect::<Vec<u32>>()
    };
    let (mut session, _) = haggling(3);
    answered(&mut session, NBD_OPT_STRUCTURED_REPLY, &[]);
    let cases: [(&[&str], usize, usize); 10] = [
        (&[], 2, 0), // "If zero queries are sent": all when listing, none when setting
        (&["base:"], 1, 0),
        (&["base:allocation"], 1, 1),
        (&["qemu:dirty-bitmap:x", "base:allocation"], 1, 1),
        (&["base:other"], 0, 0),
        (&["no colon"], 0, 0),
        (&["qemu:"], 1, 0),
        (&["qemu:allocation-depth"], 1, 1),
        (&["qemu:dirty-bitmap:"], 0, 0),
        (&["qemu:allocation-depth", "base:allocation", "qemu:allocation-depth"], 2, 2),
    ];
    for (queries, listed, set) in cases {
        for (kind, expected) in [(NBD_OPT_LIST_META_CONTEXT, listed), (NBD_OPT_SET_META_CONTEXT, set)] {
            let (_, out) = opened(&mut session, kind, &query(queries), &disk(false));
            assert_eq!(reply_types(&out), found(expected), "{kind} {queries:?}");
        }
    }
    let (_, out) = opened(&mut session, NBD_OPT_SET_META_CONTEXT, &query(&["base:allocation"]), &disk(false));
    let golden = [
        "0003e889045565a9 0000000a 00000004 00000013 00000001 626173653a616c6c6f636174696f6e",
        "0003e889045565a9 0000000a 00000001 00000000",
    ];
    assert_eq!(out, hex(&golden.concat()));
    let (_, out) = opened(&mut session, NBD_OPT_SET_META_CONTEXT, &query(&["qemu:allocation-depth"]), &disk(false));
    let golden = [
        "0003e889045565a9 0000000a 00000004 00000019 00000002 71656d753a616c6c6f636174696f6e2d6465707468",
        "0003e889045565a9 0000000a 00000001 00000000",
    ];
    assert_eq!(out, hex(&golden.concat()));
    // Selected for "d", not for "e".
    opened(&mut session, NBD_OPT_GO, &[string("e"), vec![0, 0]].concat(), &disk(false));
    assert_eq!(error_of(&event(&mut session, request(0, NBD_CMD_BLOCK_STATUS, 0, 512), 0)), NBD_EINVAL);
}

#[test]
fn a_failed_selection_deselects() {
    let (mut session, _) = haggling(3);
    answered(&mut session, NBD_OPT_STRUCTURED_REPLY, &[]);
    let select = [string("d"), vec![0, 0, 0, 1], string("base:allocation")].concat();
    opened(&mut session, NBD_OPT_SET_META_CONTEXT, &select, &disk(false));
    assert_eq!(reply_types(&answered(&mut session, NBD_OPT_SET_META_CONTEXT, b"bad")), [NBD_REP_ERR_INVALID]);
    opened(&mut session, NBD_OPT_GO, &[string("d"), vec![0, 0]].concat(), &disk(false));
    assert_eq!(error_of(&event(&mut session, request(0, NBD_CMD_BLOCK_STATUS, 0, 512), 0)), NBD_EINVAL, "H2");
}

#[test]
fn garbage_ends_the_connection_at_its_first_wrong_byte() {
    let mut out = BytesMut::new();
    let mut session = Session::new(&mut out);
    let mut flags = BytesMut::from(&[0, 0, 0, 4][..]);
    assert_eq!(session.on_bytes(&mut flags, &mut out), Err(Violation::ClientFlags(4)));
    let (mut session, mut out) = haggling(3);
    let mut http = BytesMut::from(&b"GET"[..]);
    assert!(matches!(session.on_bytes(&mut http, &mut out), Err(Violation::OptionMagic(_))));
    let (mut session, mut out) = haggling(3);
    let long_name = option(NBD_OPT_EXPORT_NAME, &vec![b'x'; STRING_BYTES_MAX + 1]);
    assert_eq!(session.on_bytes(&mut long_name.clone(), &mut out), Err(Violation::ExportNameTooLong(4097)));
    let mut session = transmitting(true, false, &disk(false));
    let mut reply = BytesMut::from(&[0x67][..]);
    assert_eq!(session.on_bytes(&mut reply, &mut out), Err(Violation::RequestMagic(0x6700_0000)));
    let mut session = transmitting(true, false, &disk(false));
    let mut huge = request(0, NBD_CMD_WRITE, 0, SKIPPED_BYTES_MAX + 1);
    assert_eq!(session.on_bytes(&mut huge, &mut out), Err(Violation::PayloadTooLong(SKIPPED_BYTES_MAX + 1)));
}

#[test]
fn requests_are_admitted_or_refused_as_specified() {
    const SIZE: u64 = 0x10_0000;
    let ok = |command, offset, len| Event::Request(Request { cookie: 0xc00c1e, command, offset, len });
    let mut session = transmitting(true, true, &disk(false));
    let mut ask = |flags, kind, offset, len| event(&mut session, request(flags, kind, offset, len), SIZE);
    assert_eq!(ask(NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_DF, 0, 1, 3), ok(Command::Read, 1, 3));
    assert_eq!(ask(1, NBD_CMD_FLUSH, 0, 0), ok(Command::Flush, 0, 0));
    assert_eq!(ask(1, NBD_CMD_TRIM, SIZE - 1, 1), ok(Command::Trim, SIZE - 1, 1));
    assert_eq!(ask(2, NBD_CMD_WRITE_ZEROES, 0, 8), ok(Command::WriteZeroes { keep_allocated: true }, 0, 8));
    assert_eq!(ask(0, NBD_CMD_WRITE_ZEROES, 0, 8), ok(Command::WriteZeroes { keep_allocated: false }, 0, 8));
    assert_eq!(ask(8, NBD_CMD_BLOCK_STATUS, 0, 8), ok(Command::BlockStatus { one: true, contexts: ALLOCATION }, 0, 8));
    assert!(matches!(ask(0, NBD_CMD_READ, SIZE, 0), Event::Empty(_)));
    assert_eq!(ask(0, NBD_CMD_DISC, 0, 0), Event::Disconnect);
    let refused = [
        (0, NBD_CMD_READ, SIZE, 1, NBD_EINVAL),
        (0, NBD_CMD_READ, u64::MAX, 1, NBD_EINVAL),
        (0, NBD_CMD_READ, u64::MAX, u32::MAX, NBD_EINVAL),
        (0, NBD_CMD_READ, 0, PAYLOAD_BYTES_MAX + 1, NBD_EINVAL),
        (NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, PAYLOAD_BYTES_MAX + 1, NBD_EOVERFLOW),
        (NBD_CMD_FLAG_NO_HOLE, NBD_CMD_READ, 0, 1, NBD_EINVAL),
        (0, NBD_CMD_TRIM, SIZE, 1, NBD_EINVAL),
        (0, NBD_CMD_WRITE_ZEROES, SIZE, 1, NBD_ENOSPC),
        (NBD_CMD_FLAG_FAST_ZERO, NBD_CMD_WRITE_ZEROES, 0, 1, NBD_ENOTSUP),
        (0, NBD_CMD_FLUSH, 1, 0, NBD_EINVAL),
        (0, NBD_CMD_BLOCK_STATUS, 0, 0, NBD_EINVAL),
        (0, NBD_CMD_BLOCK_STATUS, SIZE, 1, NBD_EINVAL),
        (0, 5, 0, 512, NBD_EINVAL), // NBD_CMD_CACHE
        (0, 99, 0, 512, NBD_EINVAL),
        (1 << 15, NBD_CMD_FLUSH, 0, 0, NBD_EINVAL),
    ];
    for (flags, kind, offset, len, error) in refused {
        assert_eq!(error_of(&ask(flags, kind, offset, len)), error, "{flags:#x} {kind} {offset} {len}");
    }
    let mut simple = transmitting(false, false, &disk(false));
    assert_eq!(error_of(&event(&mut simple, request(NBD_CMD_FLAG_DF, 0, 0, 1), SIZE)), NBD_EINVAL);
    let mut frozen = transmitting(true, true, &disk(true));
    for kind in [NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES] {
        assert_eq!(error_of(&event(&mut frozen, request(0, kind, SIZE, 1), SIZE)), NBD_EPERM);
    }
}

#[test]
fn a_refused_writes_payload_is_skipped_before_it_is_answered() {
    let cases = [(false, 0x10_0000, 1000, NBD_ENOSPC), (true, 0, 1000, NBD_EPERM), (false, 0, 40 << 20, NBD_EINVAL)];
    for (read_only, offset, len, error) in cases {
        let mut session = transmitting(false, false, &disk(read_only));
        let mut out = BytesMut::new();
        let mut input = request(0, NBD_CMD_WRITE, offset, len);
        input.put_bytes(7, 10);
        let mut event = session.on_bytes(&mut input, &mut out);
        if event == Ok(Event::Size) {
            session.on_size(0x10_0000);
            event = session.on_bytes(&mut input, &mut out);
        }
        assert_eq!(event, Ok(Event::Incomplete));
        assert!(input.is_empty());
        input.put_bytes(7, len as usize - 10);
        input.extend_from_slice(&request(0, NBD_CMD_FLUSH, 0, 0));
        assert_eq!(error_of(&session.on_bytes(&mut input, &mut out).expect("in step")), error);
        assert!(matches!(session.on_bytes(&mut input, &mut out), Ok(Event::Request(_))), "the stream is in step");
    }
}

#[test]
fn a_grown_device_is_noticed_at_the_first_request_past_its_old_end() {
    let mut session = transmitting(false, false, &disk(false));
    let mut out = BytesMut::new();
    let mut input = request(0, NBD_CMD_READ, 0x10_0000, 512);
    assert_eq!(session.on_bytes(&mut input, &mut out), Ok(Event::Size));
    session.on_size(0x20_0000);
    assert!(matches!(session.on_bytes(&mut input, &mut out), Ok(Event::Request(_))));
    let mut input = request(0, NBD_CMD_READ, 0x10_0000, 512);
    assert!(matches!(session.on_bytes(&mut input, &mut out), Ok(Event::Request(_))), "and remembered");
}

#[test]
fn after_shutdown_everything_is_refused_and_disconnecting_still_works() {
    let mut session = transmitting(true, false, &disk(false));
    session.on_shutdown();
    let mut write = request(0, NBD_CMD_WRITE, 0, 3);
    write.extend_from_slice(b"abc");
    assert_eq!(error_of(&event(&mut session, write, 0)), NBD_ESHUTDOWN);
    assert_eq!(error_of(&event(&mut session, request(0, NBD_CMD_READ, 0, 3), 0)), NBD_ESHUTDOWN);
    assert_eq!(event(&mut session, request(0, NBD_CMD_DISC, 0, 0), 0), Event::Disconnect);
    let (mut session, _) = haggling(3);
    session.on_shutdown();
    assert_eq!(reply_types(&answered(&mut session, NBD_OPT_LIST, &[])), [NBD_REP_ERR_SHUTDOWN]);
}

#[test]
fn replies_are_these_bytes() {
    let read = Request { cookie: 0x0102_0304_0506_0708, command: Command::Read, offset: 0x1000, len: 0x200 };
    let status = Request { command: Command::BlockStatus { one: false, contexts: ALLOCATION }, len: 0x3000, ..read };
    let one = Request { command: Command::BlockStatus { one: true, contexts: ALLOCATION }, ..status };
    let both = Contexts { allocation: true, depth: true };
    let both = Request { command: Command::BlockStatus { one: false, contexts: both }, ..status };
    let depth = Contexts { allocation: false, depth: true };
    let depth = Request { command: Command::BlockStatus { one: false, contexts: depth }, ..status };
    let layer = |depth| Some(LayerPlace { id: LayerId(1), depth });
    let layers = [
        LayerExtent { len: 0x1000, layer: layer(0), has_data: false },
        LayerExtent { len: 0x1000, layer: None, has_data: false },
        LayerExtent { len: 0x9000, layer: layer(2), has_data: true },
    ];
    let flush = Request { command: Command::Flush, ..read };
    let extents = [
        Extent { len: 0x1000, allocated: true, zero: false },
        Extent { len: 0x1000, allocated: false, zero: true },
        Extent { len: 0x9000, allocated: true, zero: true },
    ];
    let (simple, structured) = (ReplyStyle { structured: false }, ReplyStyle { structured: true });
    let failure = Failure::new(NBD_EPERM, "no");
    let say = |speak: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        speak(&mut out);
        out
    };
    let cases = [
        (say(&|out| simple.done(&flush, out)), "67446698 00000000 0102030405060708"),
        (say(&|out| simple.data_header(&read, out)), "67446698 00000000 0102030405060708"),
        (say(&|out| simple.failure(read.cookie, &failure, out)), "67446698 00000001 0102030405060708"),
        (say(&|out| structured.done(&flush, out)), "67446698 00000000 0102030405060708"),
        (say(&|out| structured.done(&read, out)), "668e33ef 0001 0000 0102030405060708 00000000"),
        (
            say(&|out| structured.data_header(&read, out)),
            "668e33ef 0001 0001 0102030405060708 00000208 0000000000001000",
        ),
        (
            say(&|out| structured.failure(read.cookie, &failure, out)),
            "668e33ef 0001 8001 0102030405060708 00000008 00000001 0002 6e6f",
        ),
        (
            say(&|out| structured.block_status(&status, &extents, out)),
            "668e33ef 0001 0005 0102030405060708 0000001c 00000001 \
             00001000 00000000 00001000 00000003 00001000 00000002",
        ),
        (
            say(&|out| structured.block_status(&one, &extents, out)),
            "668e33ef 0001 0005 0102030405060708 0000000c 00000001 00001000 00000000",
        ),
        (
            say(&|out| structured.layers_status(&depth, &layers, out)),
            "668e33ef 0001 0005 0102030405060708 0000001c 00000002 \
             00001000 00000001 00001000 00000000 00001000 00000003",
        ),
        (
            say(&|out| structured.layers_status(&both, &layers, out)),
            "668e33ef 0000 0005 0102030405060708 00000014 00000001 00002000 00000003 00001000 00000000 \
             668e33ef 0001 0005 0102030405060708 0000001c 00000002 \
             00001000 00000001 00001000 00000000 00001000 00000003",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(bytes, hex(expected));
    }
}

#[test]
fn status_of_a_shredded_range_is_cut_short() {
    let shreds: Vec<Extent> =
        (0..DESCRIPTORS_MAX + 9).map(|number| Extent { len: 512, allocated: number % 2 == 0, zero: false }).collect();
    let status = Request {
        cookie: 1,
        command: Command::BlockStatus { one: false, contexts: ALLOCATION },
        offset: 0,
        len: u32::MAX,
    };
    let mut out = BytesMut::new();
    ReplyStyle { structured: true }.block_status(&status, &shreds, &mut out);
    assert_eq!(out.len(), 20 + 4 + 8 * DESCRIPTORS_MAX);
    out.clear();
    let longer_than_a_descriptor = [Extent { len: 1 << 40, allocated: false, zero: true }];
    ReplyStyle { structured: true }.block_status(&status, &longer_than_a_descriptor, &mut out);
    assert_eq!(out[24..28], u32::MAX.to_be_bytes());
}

#[test]
fn the_devices_errors_have_their_numbers() {
    let medium = BlockError::Medium { detail: "x".repeat(5000) };
    let cases = [
        (BlockError::NoSpace, Command::Write, NBD_ENOSPC),
        (BlockError::ReadOnly, Command::Write, NBD_EPERM),
        (BlockError::OutOfRange, Command::Write, NBD_ENOSPC),
        (BlockError::OutOfRange, Command::Read, NBD_EINVAL),
        (BlockError::Fenced, Command::Write, NBD_EIO),
        (medium.clone(), Command::Read, NBD_EIO),
        (BlockError::ShuttingDown, Command::Read, NBD_ESHUTDOWN),
    ];
    for (error, command, expected) in cases {
        assert_eq!(Failure::from_device(&error, command).error, expected, "{error:?}");
    }
    let mut out = BytesMut::new();
    ReplyStyle { structured: true }.failure(1, &Failure::from_device(&medium, Command::Read), &mut out);
    assert!(out.len() < 600, "a long text is cut");
}
