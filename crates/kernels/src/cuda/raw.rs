//! The driver's words, and locks whose holders may have failed.

use std::{
    ffi::CStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::sys::{self, CUresult};

/// What a mutex guards, also where a thread that held it has panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The driver's words for an error.
pub(super) fn describe(error: CUresult) -> String {
    let mut text = std::ptr::null();
    // SAFETY: the driver gives a static string, or leaves null.
    let text = unsafe {
        if sys::cuGetErrorString(error, &mut text) != CUresult::CUDA_SUCCESS || text.is_null() {
            return format!("{error:?}");
        }
        CStr::from_ptr(text).to_string_lossy().into_owned()
    };
    format!("{text} ({error:?})")
}
