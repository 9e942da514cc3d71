use super::*;
use crate::shell::control::ControlFuture;
use ashlar_types::Revision;
use ashlar_types::control::ControlError;
use ashlar_types::view::ClusterView;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tokio::sync::{Semaphore, mpsc};

/// A metadata service that knows no volume, and says so when it gets a permit.
struct Nothing {
    answers: Semaphore,
}

impl Control for Nothing {
    fn request(&self, request: ControlRequest) -> ControlFuture<'_> {
        Box::pin(async move {
            if let ControlRequest::ViewSince { .. } = request {
                return Ok(ControlReply::View(Box::default()));
            }
            self.answers.acquire().await.expect("never closed").forget();
            Err(ControlError::NotFound { what: "volume".to_owned(), name: "nothing".to_owned() }.into())
        })
    }

    fn watch(&self, _from: Revision) -> mpsc::Receiver<ClusterView> {
        mpsc::channel(1).1
    }
}

#[tokio::test]
async fn an_open_that_finds_nothing_or_is_given_up_leaves_no_slot() {
    let control = Arc::new(Nothing { answers: Semaphore::new(0) });
    let options = GatewayOptions::default();
    let gateway = Gateway::connect(control.clone(), "gw".to_owned(), BootId(1), options).await.expect("a view");
    let slots = || gateway.inner.slots().len();
    let context = &mut Context::from_waker(Waker::noop());
    {
        let mut first = pin!(gateway.open("nothing"));
        let mut second = pin!(gateway.open("nothing"));
        assert!(first.as_mut().poll(context).is_pending());
        assert!(second.as_mut().poll(context).is_pending());
        control.answers.add_permits(2);
        let Poll::Ready(Err(OpenError::NotAttached { .. })) = first.as_mut().poll(context) else { panic!("not there") };
        assert_eq!(slots(), 1, "the second uses it");
        let Poll::Ready(Err(OpenError::NotAttached { .. })) = second.as_mut().poll(context) else {
            panic!("not there")
        };
    }
    assert_eq!(slots(), 0);
    {
        let mut given_up = pin!(gateway.open("nothing"));
        assert!(given_up.as_mut().poll(context).is_pending());
        assert_eq!(slots(), 1);
    }
    assert_eq!(slots(), 0);
}
