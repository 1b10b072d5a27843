package hostile

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// Flood is how a guest that keeps to the protocol sends as much as it can, to use up
// the memory of its host.
type Flood string

// The floods.
const (
	Tiny    Flood = "tiny"    // lists without end, of elements that are short and make much of little
	Crowded Flood = "crowded" // as many elements in one message as it has pairs of bytes
	Long    Flood = "long"    // texts and attributes as long as they can be
	Deep    Flood = "deep"    // directories in directories, each with attributes
	Failing Flood = "failing" // failures without end
	Refuses Flood = "refuses" // an error with long texts, details and metadata
	Boasts  Flood = "boasts"  // as Long, in what it says of itself
)

// Floods are all of them.
var Floods = []Flood{Tiny, Crowded, Long, Deep, Failing, Refuses, Boasts}

const (
	floodMessage = 4<<20 - 1<<10 // just what a client takes
	floodList    = 25_000        // elements of one message
)

// Server returns a server for both wires on which f answers. The caller stops it.
func (f Flood) Server() *rpc.Server {
	return rpc.NewServer(&rpc.ServerConfig{
		UnknownServiceHandler: f.answer,
		MaxHeaderBytes:        1 << 20,
		Logger:                slog.New(slog.DiscardHandler),
	})
}

func (f Flood) answer(_ any, st grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(st)
	method := descriptor(name)
	if method == nil {
		return failure()
	}
	first := new(emptypb.Empty)
	if err := st.RecvMsg(first); err != nil {
		return err
	}
	if name == guestv1.AgentService_Info_FullMethodName {
		return st.SendMsg(f.info())
	}
	if f == Refuses {
		return refusal(st)
	}
	go func() {
		for st.RecvMsg(new(emptypb.Empty)) == nil {
		}
	}()
	switch name {
	case guestv1.ProcessService_Exec_FullMethodName, guestv1.ProcessService_Attach_FullMethodName:
		return f.session(st, first.ProtoReflect().GetUnknown())
	case guestv1.FileService_Download_FullMethodName:
		return f.download(st)
	case guestv1.FileService_Upload_FullMethodName:
		return f.upload(st)
	case guestv1.FileService_List_FullMethodName:
		return endless(st, f.files)
	case guestv1.FileService_Read_FullMethodName:
		return f.contents(st)
	case guestv1.ProcessService_ListProcesses_FullMethodName:
		return endless(st, f.processes)
	case guestv1.ProcessService_ListSessions_FullMethodName:
		return st.SendMsg(f.sessions())
	case guestv1.FileService_Watch_FullMethodName:
		return endless(st, f.events)
	}
	for {
		if err := st.SendMsg(f.any(method.Output())); err != nil || !method.IsStreamingServer() {
			return err
		}
	}
}

// endless sends messages without end, each for a number that is one higher.
func endless[M proto.Message](st grpc.ServerStream, next func(n int) M) error {
	for n := 0; ; n++ {
		if err := st.SendMsg(next(n)); err != nil {
			return err
		}
	}
}

func refusal(st grpc.ServerStream) error {
	long := strings.Repeat("\x1b[2J", 60_000)
	st.SetHeader(metadata.Pairs("long", strings.Repeat("x", 200_000)))
	st.SetTrailer(metadata.Pairs("long", strings.Repeat("x", 200_000)))
	s, err := status.New(codes.Internal, long).WithDetails(&guestv1.ErrorDetail{Reason: long, Remedy: long, Path: []byte(long)})
	if err != nil {
		return err
	}
	return s.Err()
}

// text returns a text that takes its share of a message of so many.
func (f Flood) text(share int) []byte {
	if f == Long || f == Boasts {
		return bytes.Repeat([]byte("\x01"), floodMessage/share)
	}
	return []byte("x")
}

// count returns how many elements a list has, of which some are so long.
func (f Flood) count(long int) int {
	switch f {
	case Long, Boasts:
		return long
	case Crowded:
		return floodMessage / 40
	}
	return floodList
}

func (f Flood) info() *guestv1.InfoResponse {
	m := info()
	switch f {
	case Boasts:
		m.Hostname, m.Version, m.Access.Remedy = f.text(8), string(f.text(8)), string(f.text(8))
		m.Capabilities = append(m.Capabilities, &guestv1.Capability{Name: string(f.text(8)), Reason: string(f.text(8))})
		m.Access.Roles = []string{string(f.text(8))}
	default:
		m.BootId = "boot"
	}
	return m
}

func (f Flood) files(n int) *guestv1.ListResponse {
	m := &guestv1.ListResponse{}
	if f == Failing {
		for range 1000 {
			m.Failures = append(m.Failures, &guestv1.FileFailure{Path: []byte("x"), Message: strings.Repeat("y", 3000), Reason: "z"})
		}
		return m
	}
	for i := range f.count(4) {
		name := fmt.Sprintf("f%09d", n*floodList+i)
		if f == Deep {
			name = strings.Repeat("d/", 100) + name
		}
		m.Files = append(m.Files, &guestv1.FileInfo{Path: []byte(name), Mode: 0o120777, User: f.text(20), Group: f.text(20), LinkTarget: f.text(20)})
	}
	return m
}

func (f Flood) processes(n int) *guestv1.ListProcessesResponse {
	m := &guestv1.ListProcessesResponse{}
	for i := range f.count(2) {
		m.Processes = append(m.Processes, &guestv1.ProcessInfo{Pid: uint32(n*floodList + i), Name: f.text(16), User: f.text(16), State: string(f.text(16)), Args: [][]byte{f.text(4), f.text(16)}})
	}
	return m
}

func (f Flood) sessions() *guestv1.ListSessionsResponse {
	m := &guestv1.ListSessionsResponse{}
	for i := range min(f.count(2), 20_000) {
		id := []byte(fmt.Sprintf("%016d", i))
		if i == 0 {
			id = []byte(sessionID)
		}
		s := &guestv1.SessionInfo{SessionId: id, Name: string(f.text(32)), Args: [][]byte{f.text(4), f.text(16)}, StdoutEnd: math.MaxUint64, StderrEnd: math.MaxUint64}
		m.Sessions = append(m.Sessions, s)
	}
	return m
}

func (f Flood) events(int) *guestv1.WatchResponse {
	m := &guestv1.WatchResponse{}
	for range f.count(4) {
		m.Events = append(m.Events, &guestv1.FileEvent{Kind: 1, Path: f.text(16), NewPath: f.text(16)})
	}
	return m
}

// any returns a message with lists and texts as long as there is room for.
func (f Flood) any(md protoreflect.MessageDescriptor) proto.Message {
	var raw []byte
	fields := md.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.Message() != nil && fd.IsList() && !fd.IsMap():
			raw = append(raw, bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, fd.Number(), protowire.BytesType), nil), f.count(2)/fields.Len())...)
		case fd.Kind() == protoreflect.BytesKind || fd.Kind() == protoreflect.StringKind:
			raw = protowire.AppendBytes(protowire.AppendTag(raw, fd.Number(), protowire.BytesType), f.text(fields.Len()+1))
		}
	}
	m := new(emptypb.Empty)
	m.ProtoReflect().SetUnknown(raw)
	return m
}

// session opens a session, sends all that its window lets through and more, and ends
// it with a long reason.
func (f Flood) session(st grpc.ServerStream, request []byte) error {
	req := new(guestv1.ExecRequest)
	if err := proto.Unmarshal(request, req); err != nil {
		return err
	}
	id := req.GetOpen().GetSessionId()
	if len(id) == 0 {
		id = []byte(sessionID)
	}
	send := func(m *guestv1.ExecResponse) error { return st.SendMsg(m) }
	err := send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Opened{Opened: &guestv1.Opened{AgentId: info().AgentId, Session: &guestv1.SessionInfo{SessionId: id, Args: [][]byte{f.text(2)}}}}})
	if f == Long {
		err = send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Exit{Exit: &guestv1.Exit{Signal: 9, Reason: string(f.text(1))}}})
	}
	piece := 1 << 10
	if f == Crowded {
		piece = 1
	}
	data := bytes.Repeat([]byte("\x1b"), piece)
	for offset := uint64(0); err == nil; offset += uint64(piece) {
		for _, stream := range []guestv1.Stream{guestv1.Stream_STREAM_STDOUT, guestv1.Stream_STREAM_STDERR} {
			if err == nil {
				err = send(&guestv1.ExecResponse{Message: &guestv1.ExecResponse_Output{Output: &guestv1.Output{Stream: stream, Offset: offset, Data: data}}})
			}
		}
	}
	return err
}

// contents sends a file without an end.
func (f Flood) contents(st grpc.ServerStream) error {
	err := st.SendMsg(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_File{File: &guestv1.FileInfo{Size: math.MaxInt64, User: f.text(4)}}})
	data := make([]byte, 1<<20)
	if f == Crowded {
		data = data[:1]
	}
	for offset := uint64(0); err == nil; offset += uint64(len(data)) {
		err = st.SendMsg(&guestv1.ReadResponse{Message: &guestv1.ReadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Data: data}}})
	}
	return err
}

// upload takes nothing, and says so without end.
func (f Flood) upload(st grpc.ServerStream) error {
	err := st.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Ready{Ready: &guestv1.Ready{Window: math.MaxUint64}}})
	for err == nil {
		if f == Crowded {
			d := &guestv1.Decision{}
			for range floodMessage / 4 {
				d.Wanted = append(d.Wanted, &guestv1.Wanted{})
			}
			err = st.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Decision{Decision: d}})
			continue
		}
		err = st.SendMsg(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Failure{Failure: &guestv1.FileFailure{Path: f.text(4), Message: string(f.text(4)), Reason: string(f.text(4)), Operation: string(f.text(8))}}})
	}
	return err
}

// download sends a tree.
func (f Flood) download(st grpc.ServerStream) error {
	if f == Failing {
		return endless(st, func(n int) *guestv1.DownloadResponse {
			return &guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Failure{Failure: &guestv1.FileFailure{Entry: uint64(n + 1),
				Path: bytes.Repeat([]byte("p"), 1<<20), Message: strings.Repeat("y", 1<<20), Reason: strings.Repeat("z", 1<<20), Operation: strings.Repeat("z", 1<<19)}}}
		})
	}
	if f == Boasts {
		return f.unsized(st)
	}
	number := uint64(0)
	sum := sha256.Sum256(nil)
	path := ""
	entry := func() *guestv1.Entry {
		number++
		e := &guestv1.Entry{Number: number, Path: []byte(fmt.Sprintf("f%09d", number)), Mode: 0o100644, Sha256: sum[:]}
		switch f {
		case Deep:
			if path = strings.TrimPrefix(path+"/d", "/"); number > 250 {
				path = strings.Repeat("d/", 240) + fmt.Sprintf("f%09d", number)
			}
			e.Path, e.Mode = []byte(path), 0o40755
			e.Xattrs = []*guestv1.TransferXattr{{Name: []byte("user.x"), Value: make([]byte, 900<<10)}}
		case Long:
			e.Contents = make([]byte, 100<<10)
			s := sha256.Sum256(e.Contents)
			e.Size, e.Sha256 = uint64(len(e.Contents)), s[:]
			e.User, e.Group = f.text(200), f.text(200)
			e.Xattrs = []*guestv1.TransferXattr{{Name: []byte("user.x"), Value: make([]byte, 700<<10)}}
		}
		return e
	}
	// What is copied is a directory.
	number++
	top := &guestv1.Entry{Number: number, Mode: 0o40755}
	return endless(st, func(n int) *guestv1.DownloadResponse {
		m := &guestv1.Entries{}
		if n == 0 {
			m.Entries = append(m.Entries, top)
		}
		count := min(f.count(4), 4000)
		if f == Deep {
			count = 4
		}
		for range count {
			m.Entries = append(m.Entries, entry())
		}
		return &guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Entries{Entries: m}}
	})
}

// unsized sends a file that does not say how long it is.
func (f Flood) unsized(st grpc.ServerStream) error {
	err := st.SendMsg(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_File{File: &guestv1.FileStart{
		Entry: &guestv1.Entry{Number: 1, Mode: 0o100644, SizeUnknown: true}}}})
	for offset := uint64(0); err == nil; offset += 64 << 10 {
		err = st.SendMsg(&guestv1.DownloadResponse{Message: &guestv1.DownloadResponse_Piece{Piece: &guestv1.Piece{Offset: offset, Data: make([]byte, 64<<10)}}})
	}
	return err
}
