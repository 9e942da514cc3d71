//! Messages of the control protocol: what prost takes, then what their conversion takes. The first byte says which message it is.
#![no_main]

use ashlar_types::control::{ControlError, ControlReply, ControlRequest};
use ashlar_types::view::ClusterView;
use ashlar_wire_control::proto;
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            let Ok(message) = proto::ControlRequest::decode(bytes) else { return };
            let Ok(request) = ControlRequest::try_from(message) else { return };
            let again = proto::ControlRequest::from(request.clone());
            assert_eq!(ControlRequest::try_from(again), Ok(request));
        }
        1 => {
            let Ok(message) = proto::ControlAnswer::decode(bytes) else { return };
            let Ok(answer) = Result::<ControlReply, ControlError>::try_from(message) else { return };
            let again = proto::ControlAnswer::from(answer.clone());
            assert_eq!(Result::try_from(again), Ok(answer));
        }
        _ => {
            let Ok(message) = proto::ClusterView::decode(bytes) else { return };
            let Ok(view) = ClusterView::try_from(message) else { return };
            let again = proto::ClusterView::from(view.clone());
            assert_eq!(ClusterView::try_from(again), Ok(view));
        }
    }
});
