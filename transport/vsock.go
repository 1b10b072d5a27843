package transport

import "os"

// Available reports whether this system can make AF_VSOCK sockets: nil, or an
// [*Error] whose Kind tells KindNoVsock (not in this kernel, or not on this
// operating system) from KindPermission (there, but refused). It does not say
// that any VM or host can be reached.
func Available() error {
	if err := available(); err != nil {
		return &Error{Op: "available", Kind: kindOf("available", Addr{}, err), Err: err}
	}
	return nil
}

// LocalCID returns the CID of this machine: in a guest its own, on a host
// CIDHost. The value may change while the machine runs, when a snapshot of it
// is restored, so it is not for listening; use CIDAny for that.
//
// The error is an [*Error]: KindNoVsock, KindPermission (no access to
// /dev/vsock), or KindAddrNotAvail if there is vsock but no device that would
// give the machine a CID.
func LocalCID() (uint32, error) {
	cid, err := localCID()
	switch {
	case err != nil:
		return 0, &Error{Op: "local-cid", Kind: kindOf("local-cid", Addr{}, err), Err: err}
	case cid == CIDAny:
		return 0, &Error{Op: "local-cid", Kind: KindAddrNotAvail}
	}
	return cid, nil
}

// FileListener makes a listener out of an inherited listening socket of
// AF_VSOCK or AF_UNIX; others are refused. A nil cfg means the defaults. The
// listener has a copy of the descriptor, so the caller still has to close f.
// Closing a listener on an inherited Unix socket does not remove its file.
// Linux only.
func FileListener(f *os.File, cfg *ListenConfig) (*Listener, error) {
	if cfg == nil {
		cfg = &ListenConfig{}
	}
	return fileListener(f, cfg)
}

// ActivationListeners takes over the listening sockets that the service
// manager passed to this process (systemd socket activation: LISTEN_PID,
// LISTEN_FDS, LISTEN_FDNAMES). The name of each socket is the Name of its
// listener. Without such sockets it returns none and no error. A nil cfg means
// the defaults; it applies to all.
//
// It removes the variables from the environment, so that neither a child nor
// a second call takes the sockets for its own, and closes the original
// descriptors. If one of them is no listening AF_VSOCK or AF_UNIX socket, the
// error says which, and none is returned.
func ActivationListeners(cfg *ListenConfig) ([]*Listener, error) {
	if cfg == nil {
		cfg = &ListenConfig{}
	}
	return activationListeners(cfg)
}
