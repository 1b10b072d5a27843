package guest

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestGuestCutsACopy has a guest break a copy off, which is then retried: what it does
// to a directory and a file that were there is what the first try would have done.
func TestGuestCutsACopy(t *testing.T) {
	dst := t.TempDir()
	private, file := filepath.Join(dst, "a"), filepath.Join(dst, "b")
	if err := errors.Join(os.Mkdir(private, 0o700), os.WriteFile(file, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := &guestv1.Entry{Number: 1, Path: []byte("a"), Mode: 0o40777}
	f := &guestv1.Entry{Number: 2, Path: []byte("b"), Mode: 0o100644, Size: 4, ModifiedUnixNanos: info.ModTime().UnixNano()}
	entries := func(st guestv1.FileService_DownloadServer, e *guestv1.Entry) error {
		return st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Entries{Entries: &guestv1.Entries{Entries: []*guestv1.Entry{e}}}})
	}
	calls, wanted := 0, 0
	files := hostileFiles(t, &fakeFiles{download: func(st guestv1.FileService_DownloadServer) error {
		if calls++; calls == 1 {
			if err := entries(st, dir); err != nil {
				return err
			}
			return agentError(codes.Unavailable, reasonCut, "cut", 0)
		}
		if err := st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Offer{Offer: &guestv1.Offer{Entries: []*guestv1.Entry{dir, f}}}}); err != nil {
			return err
		}
		for {
			m, err := st.Recv()
			if err != nil {
				return err
			}
			if d := m.GetDecision(); d != nil {
				wanted = len(d.Wanted)
				break
			}
		}
		if err := entries(st, dir); err != nil {
			return err
		}
		if err := st.Send(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Finish{Finish: &guestv1.Finish{}}}); err != nil {
			return err
		}
		for {
			if _, err := st.Recv(); err != nil {
				return nil
			}
		}
	}})
	result, err := files.CopyFrom(t.Context(), []string{"/src/."}, dst, nil)
	if err != nil || result.Resumed != 1 || calls != 2 {
		t.Fatalf("%+v, %v, %d calls", result, err, calls)
	}
	if wanted != 2 {
		t.Errorf("of 2 entries offered %d are wanted: a file was skipped that the first try would have replaced", wanted)
	}
	if info, err := os.Stat(private); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has the mode %v, %v, had 0700", info.Mode(), err)
	}
}
