package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"postern/shared/api"
	"postern/shared/table"
)

// Event is one link of the chain. All of its texts are printable UTF-8 of at
// most 256 bytes.
//
// Hash is, as 64 lower-case hex digits, the SHA-256 of these texts in this order,
// each as a netstring (its length in bytes in decimal, ":", the text, ","):
//
//	"postern-audit-1"  seq in decimal  time  actor  action  target  request_id  ip  previous_hash
//
// PreviousHash is the Hash of the event before, and empty in event 1.
type Event struct {
	Seq          int64  `json:"seq"`    // from 1, without a gap
	Time         string `json:"time"`   // RFC 3339 in UTC with milliseconds, of the writer's clock: later events may have earlier times
	Actor        string `json:"actor"`  // a caller's id
	Action       string `json:"action"` // "keys.create", an intent; or its outcome: see Act
	Target       string `json:"target"`
	RequestID    string `json:"request_id"`
	IP           string `json:"ip"`
	Hash         string `json:"hash"`
	PreviousHash string `json:"previous_hash"`
}

// Head is an event's place and hash: all that must be noted of it to show later
// that neither it nor any event before has changed. The zero Head is the place
// before event 1.
type Head struct {
	Seq  int64
	Hash string
}

// Head is the head of a chain that ends with e.
func (e Event) Head() Head { return Head{e.Seq, e.Hash} }

// What an action ends in once it has an outcome.
const (
	succeeded = ".succeeded"
	failed    = ".failed"  // nothing was changed
	unknown   = ".unknown" // it may have happened, or not
)

// Act returns what the event is about ("keys.create") and how that ended:
// "succeeded", "failed" (nothing was changed), "unknown" (it may have happened),
// or "" of an intent.
func (e Event) Act() (action, outcome string) { return splitAction(e.Action) }

func splitAction(s string) (action, outcome string) {
	for _, end := range []string{succeeded, failed, unknown} {
		if action, found := strings.CutSuffix(s, end); found {
			return action, end[1:]
		}
	}
	return s, ""
}

// timeFormat has one length, so that times sort as texts.
const timeFormat = "2006-01-02T15:04:05.000Z"

// event makes a the event behind head.
func (a Act) event(at time.Time, head Head) Event {
	e := Event{
		Seq:          head.Seq + 1,
		Time:         at.UTC().Format(timeFormat),
		Actor:        clean(a.Actor),
		Action:       a.Action,
		Target:       clean(a.Target),
		RequestID:    clean(a.RequestID),
		IP:           clean(a.IP),
		PreviousHash: head.Hash,
	}
	e.Hash = e.hash()
	return e
}

// maxText is the longest text of an event, in bytes. It keeps a page of 1000
// events below the 6 MB that a Lambda may answer.
const maxText = 256

// clean makes s what an Event holds, so that it comes back from JSON as it was,
// and can be shown on a terminal: what can't be printed, bytes that aren't UTF-8
// among it, becomes U+FFFD.
func clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		if b.Len()+utf8.RuneLen(r) > maxText {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// hash computes Hash.
func (e Event) hash() string {
	sum := sha256.New()
	for _, text := range []string{
		"postern-audit-1", strconv.FormatInt(e.Seq, 10), e.Time, e.Actor, e.Action, e.Target, e.RequestID, e.IP, e.PreviousHash,
	} {
		fmt.Fprintf(sum, "%d:%s,", len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// partition holds the chain, and nothing else.
const partition = "audit"

// keyOf is where the event of that number is: numbers sort as texts.
func keyOf(seq int64) table.Key {
	return table.Key{Partition: partition, Sort: fmt.Sprintf("%019d", seq)}
}

// encode is e as it is stored.
func (e Event) encode() []byte {
	b, _ := api.Encode(e) // texts and a number always encode
	return bytes.TrimSpace(b)
}

// decode reads what encode wrote.
func decode(value []byte) (Event, error) {
	var e Event
	d := &decoder{Decoder: json.NewDecoder(bytes.NewReader(value))}
	if err := d.event(&e); err != nil {
		return Event{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Event{}, errors.New("there is more after it")
	}
	return e, nil
}
