package secretsfake

import (
	"crypto/rand"
	"fmt"
	"slices"
	"time"
)

// Secret is one secret and its versions.
type Secret struct {
	server   *Server
	name     string
	arn      string
	deleted  bool
	versions []*version
}

type version struct {
	id      string
	text    string
	binary  []byte
	created time.Time
	labels  []string
}

// ARN is the id that clients are configured with.
func (s *Secret) ARN() string { return s.arn }

// Put makes value the current one, as put-secret-value and the console do, and
// returns the new version's id.
func (s *Secret) Put(value string) string {
	return s.put(&version{text: value}, Current)
}

// PutBinary is Put for a SecretBinary, which a token must not be.
func (s *Secret) PutBinary(value []byte) string {
	return s.put(&version{binary: value}, Current)
}

// PutPending adds a version labelled AWSPENDING, the first step of a rotation
// function. Its CreatedDate is now, not the time at which it becomes current.
func (s *Secret) PutPending(value string) string {
	return s.put(&version{text: value}, Pending)
}

// Promote makes a version current, the last step of a rotation function
// (UpdateSecretVersionStage). Other labels of the version stay. It panics on an
// unknown id, which is a mistake in the test.
func (s *Secret) Promote(id string) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	i := slices.IndexFunc(s.versions, func(v *version) bool { return v.id == id })
	if i < 0 {
		panic(fmt.Sprintf("secretsfake: secret %s has no version %s", s.name, id))
	}
	s.makeCurrent(s.versions[i])
}

// Delete marks the secret for deletion: reads fail until Restore.
func (s *Secret) Delete() { s.mark(true) }

// Restore takes a deletion back.
func (s *Secret) Restore() { s.mark(false) }

func (s *Secret) mark(deleted bool) {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.deleted = deleted
}

func (s *Secret) put(v *version, label string) string {
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	var id [16]byte
	rand.Read(id[:]) // never fails
	v.id = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	v.created = s.server.now()
	s.versions = append(s.versions, v)
	if label == Current {
		s.makeCurrent(v)
	} else {
		s.move(label, v)
	}
	return v.id
}

// makeCurrent moves AWSCURRENT, which takes AWSPREVIOUS along.
func (s *Secret) makeCurrent(v *version) {
	before := s.labelled(Current)
	if before == v {
		return
	}
	if before != nil {
		s.move(Previous, before)
	}
	s.move(Current, v)
}

// move takes a label from whichever version has it and gives it to v.
func (s *Secret) move(label string, v *version) {
	for _, other := range s.versions {
		other.labels = slices.DeleteFunc(other.labels, func(l string) bool { return l == label })
	}
	v.labels = append(v.labels, label)
}

func (s *Secret) labelled(label string) *version {
	for _, v := range s.versions {
		if slices.Contains(v.labels, label) {
			return v
		}
	}
	return nil
}

// find returns the version that a call asks for. An absent stage means
// AWSCURRENT, unless a version is named; both must fit if both are there.
func (s *Secret) find(in request) *version {
	stage := in.VersionStage
	if stage == "" && in.VersionID == "" {
		stage = Current
	}
	for _, v := range s.versions {
		if (in.VersionID == "" || v.id == in.VersionID) && (stage == "" || slices.Contains(v.labels, stage)) {
			return v
		}
	}
	return nil
}
