package guest

import (
	"context"
	"errors"
	"io"
	"iter"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// WatchOptions say what Watch watches. The zero value, or a nil pointer, is the file or
// directory alone.
type WatchOptions struct {
	// Recursive watches all below a directory too.
	Recursive bool
}

// Watch yields what happens to a file or directory of the guest until ctx is done. The first event, whose Kind is
// FILE_EVENT_KIND_UNSPECIFIED, says that nothing is missed from then on. When
// events were lost there is one of FILE_EVENT_KIND_OVERFLOW: the files have to be
// looked at again. An error, that of a lost connection among them, is the last.
func (f *Files) Watch(ctx context.Context, name string, opts *WatchOptions) iter.Seq2[*guestv1.FileEvent, error] {
	return func(yield func(*guestv1.FileEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		method := guestv1.FileService_Watch_FullMethodName
		st, err := f.client().Watch(ctx, &guestv1.WatchRequest{Subject: f.subject(), Path: []byte(name), Recursive: opts != nil && opts.Recursive})
		for first := true; err == nil; first = false {
			var m *guestv1.WatchResponse
			if m, err = st.Recv(); err != nil {
				break
			}
			if first && !yield(&guestv1.FileEvent{}, nil) {
				return
			}
			for _, e := range m.Events {
				if !yield(e, nil) {
					return
				}
			}
		}
		if errors.Is(err, io.EOF) {
			err = protocolError("the stream ended too early")
		}
		yield(nil, f.g.wrap("watch", method, err))
	}
}
