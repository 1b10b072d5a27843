package archive

import (
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// remoteFailure notes that the sender could not read a file.
func (r *receiver) remoteFailure(m *guestv1.FileFailure) error {
	if r.current != nil && m.GetEntry() == r.current.entry.Number {
		r.current.drop()
		r.current = nil
	} else if r.discard != 0 && m.GetEntry() == r.discard {
		r.discard = 0
		return nil
	} else if err := r.next(m.GetEntry()); err != nil {
		return err
	}
	if r.cfg.Memory.first(noSource, m.GetPath()) {
		r.finished.Failed++
	}
	r.done(Done{Failure: FailureOf(m), Remote: true})
	return nil
}

// noSource is the source, in the counts, of entries whose path the sender alone knows.
const noSource = 1<<32 - 1

// countFile counts a file or link that was made.
func (r *receiver) countFile(source uint32, path []byte, bytes uint64) {
	r.cfg.Memory.add(source, path)
	if r.cfg.Memory.first(source, path) {
		r.finished.Files, r.finished.Bytes = r.finished.Files+1, r.finished.Bytes+bytes
	}
}

// countFailed counts an entry that could not be made.
func (r *receiver) countFailed(source uint32, path []byte) {
	if r.cfg.Memory.first(source, path) {
		r.finished.Failed++
	}
}

// countSkipped counts an entry that was there.
func (r *receiver) countSkipped(e *guestv1.Entry) {
	if r.cfg.Memory.first(e.GetSource(), e.GetPath()) {
		r.finished.Skipped++
	}
}

// named returns the path of an entry as the sender's user knows it.
func (r *receiver) named(e *guestv1.Entry) string {
	name := ""
	if i := int(e.GetSource()); i < len(r.cfg.Names) {
		name = r.cfg.Names[i]
	}
	switch {
	case len(e.GetPath()) == 0:
		return name
	case name == "":
		return string(e.GetPath())
	}
	return joinPath(name, string(e.GetPath()))
}

// failedEntry tells both sides that an entry could not be made. It returns err
// if no further entry could either.
func (r *receiver) failedEntry(e *guestv1.Entry, err error) error {
	f := failed("write", r.named(e), err)
	if f.fatal() {
		return f
	}
	r.countFailed(e.Source, e.Path)
	r.done(Done{Failure: f})
	m := &guestv1.UploadResponse{Message: &guestv1.UploadResponse_Failure{Failure: f.message(e.Number)}}
	return r.tell(m)
}

func (r *receiver) done(d Done) {
	if r.cfg.OnDone != nil {
		r.cfg.OnDone(d)
	}
}

// acknowledge tells the sender how far it is, if that is worth it.
func (r *receiver) acknowledge(all bool) error {
	entries := r.inPlace()
	if !all && r.bytes-r.reported < Window/4 && entries-r.reportedTo < 64 {
		return nil
	}
	if r.bytes == r.reported && entries == r.reportedTo {
		return nil
	}
	r.reported, r.reportedTo = r.bytes, entries
	a := &guestv1.Acknowledge{Bytes: r.bytes, Entries: entries}
	return r.tell(&guestv1.UploadResponse{Message: &guestv1.UploadResponse_Acknowledge{Acknowledge: a}})
}

// inPlace returns the number of the entry up to which all is done.
func (r *receiver) inPlace() uint64 {
	switch {
	case r.syncing != nil:
		return r.syncing.first() - 1
	case len(r.filling.files) > 0:
		return r.filling.first() - 1
	case r.current != nil:
		return r.current.entry.Number - 1
	}
	return r.number
}
