"""The built library from Python, by ctypes: as much of it as comparisons need. tests/check-library.py compares the structures with the headers."""
import contextlib
import ctypes
import ctypes.util
import os


class GError(ctypes.Structure):
    _fields_ = [("domain", ctypes.c_uint32), ("code", ctypes.c_int), ("message", ctypes.c_char_p)]


class TrainOptions(ctypes.Structure):
    """NfTrainOptions"""

    _fields_ = [("steps", ctypes.c_uint64), ("warmup", ctypes.c_uint64)]
    _fields_ += [
        (name, ctypes.c_double)
        for name in (
            "lr", "lr_min", "beta1", "beta2", "eps", "weight_decay", "clip", "ema", "label_dropout", "action_dropout", "context_errors",
        )
    ]
    _fields_ += [("seed", ctypes.c_uint64)]


class TrainBatch(ctypes.Structure):
    """NfTrainBatch"""

    _fields_ = [("B", ctypes.c_uint), ("tiles", ctypes.c_void_p), ("labels", ctypes.c_void_p), ("actions", ctypes.c_void_p),
                ("text", ctypes.c_void_p), ("null_text", ctypes.c_void_p)]


class TrainReport(ctypes.Structure):
    """NfTrainReport"""

    _fields_ = [("step", ctypes.c_uint64)]
    _fields_ += [(name, ctypes.c_double) for name in ("loss", "nll", "denoiser_loss", "bits_per_dim", "grad_norm", "lr")]
    _fields_ += [("skipped", ctypes.c_int)]


class Library:
    def __init__(self, build):
        path = os.path.join(build, "core", "libnormflow-1.0.so.0")
        self.c = ctypes.CDLL(path)
        self.gobject = ctypes.CDLL(ctypes.util.find_library("gobject-2.0"))
        self.gobject.g_object_unref.argtypes = [ctypes.c_void_p]
        for name in ("nf_device_open", "nf_model_load", "nf_trainer_new"):
            getattr(self.c, name).restype = ctypes.c_void_p

    def call(self, name, *arguments):
        """The function's result; what it says of a failure is raised."""
        error = ctypes.POINTER(GError)()
        result = getattr(self.c, name)(*arguments, ctypes.byref(error))
        if not result:
            raise RuntimeError(error.contents.message.decode() if error else f"{name} failed")
        return result

    @contextlib.contextmanager
    def trainer(self, model_path, options, device=None):
        """A function that trains a model file by one step on tiles and labels, and returns an NfTrainReport."""
        device = ctypes.c_void_p(self.call("nf_device_open", device.encode() if device else None))
        model = ctypes.c_void_p(self.call("nf_model_load", os.fsencode(model_path), device, None, None, None))
        trainer = ctypes.c_void_p(self.call("nf_trainer_new", model, ctypes.byref(options)))

        def step(tiles, labels):
            report = TrainReport()
            batch = TrainBatch(len(tiles), tiles.ctypes.data, labels.ctypes.data if labels is not None else None, None)
            self.call("nf_trainer_step", trainer, ctypes.byref(batch), ctypes.byref(report))
            return report

        try:
            yield step
        finally:
            for made in (trainer, model, device):
                self.gobject.g_object_unref(made)
