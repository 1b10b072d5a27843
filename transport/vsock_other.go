//go:build !linux

package transport

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
)

// errVsockOS is the cause of every failure of native vsock on this system.
var errVsockOS = fmt.Errorf("native vsock on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// errInherit is the answer to attempts to use inherited sockets.
var errInherit = fmt.Errorf("inherited sockets on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func dialVsock(context.Context, Addr, *DialConfig) (*Conn, error) { return nil, errVsockOS }

func listenVsock(a Addr, _ *ListenConfig) (acceptor, Addr, error) { return nil, a, errVsockOS }

func bufferSizes(syscall.Conn) (BufferSizes, error) { return BufferSizes{}, errNotVsock }

func setBufferSizes(syscall.Conn, BufferSizes) error { return errNotVsock }

func connectTimeout(syscall.Conn) (time.Duration, error) { return 0, errNotVsock }

func available() error { return errVsockOS }

func localCID() (uint32, error) { return 0, errVsockOS }

func fileListener(*os.File, *ListenConfig) (*Listener, error) { return nil, errInherit }

func activationListeners(*ListenConfig) ([]*Listener, error) { return nil, nil }
