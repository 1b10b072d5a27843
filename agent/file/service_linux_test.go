package file_test

import (
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/file"
	"github.com/vsockrpc/vsockrpc/guest"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/transport"
)

// serve runs an agent whose file service is confined to root, unless that is
// empty, and returns its files by the SDK and its bare calls.
func serve(t *testing.T, root string) (*guest.Files, guestv1.FileServiceClient) {
	t.Helper()
	a, err := agent.New(&agent.Config{
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Access: access.Rules{Mode: access.ModeEmbedded},
		File:   &file.Config{Root: root},
	})
	if err != nil {
		t.Fatal(err)
	}
	addr := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(l) }()
	t.Cleanup(func() {
		a.Close()
		<-served
	})
	g, err := guest.Dial(t.Context(), "unix:"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	cc, err := transport.NewGRPCClient("unix:" + addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return g.Files(), guestv1.NewFileServiceClient(cc)
}

// reasonOf returns the stable word of an error, or its text if it has none.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	if st, ok := status.FromError(err); ok {
		for _, d := range st.Details() {
			if e, ok := d.(*guestv1.ErrorDetail); ok {
				return e.Reason
			}
		}
	}
	return err.Error()
}

// drain receives all that a call streams.
func drain[M any](st grpc.ServerStreamingClient[M], err error) error {
	for err == nil {
		_, err = st.Recv()
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// write makes a file.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// snapshot returns names, modes, owners, times, links and contents below dir.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().String() + " " + owner(info))
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.WriteString(" " + string(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			b.WriteString(" -> " + target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
