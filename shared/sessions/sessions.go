// Package sessions keeps conversations: what a caller has said to agents under a
// session_id, and what they have answered.
//
// A conversation is a list of turns, each a message and its whole answer. It
// begins with the first turn that somebody adds and ends some time after the last
// one, or when its caller deletes it. It belongs to its caller by construction, as
// one item (partition "session#<caller>", sort the session_id): another caller's
// conversation is like one that there is not (P13). A key that is rotated keeps
// its id, and with it its conversations. Everybody who is anonymous is one caller,
// whose conversations would be everybody's; so there are none.
//
// It is bounded twice, and both times the oldest turns drop first, each as a
// whole. What is kept is what one item of the table takes; of a turn that alone is
// more, the texts are cut. What a model is told is the last 64 KiB, and of that as
// much as its window takes (package agents asks with less where it refuses). The
// agent's system prompt is no part of either.
//
// Two requests at once don't lose a turn: a turn is added to the version that was
// read, and read again where another was faster. Each was answered on what it saw.
package sessions

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/table"
)

// MaxTold bounds what a model is told of a conversation beside the new message,
// in bytes of text.
const MaxTold = 64 << 10

// maxID is the length of the longest id.
const maxID = 128

// validID is the rule for ids. "." and ".." are none, for no URL can name them
// (RFC 3986, section 5.2.4).
func validID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if letter := 'a' <= c|0x20 && c|0x20 <= 'z'; !letter && !('0' <= c && c <= '9') && !strings.ContainsRune("._-", rune(c)) {
			return false
		}
	}
	return id != "" && len(id) <= maxID && id != "." && id != ".."
}

// permit says whether a chat of caller may name id.
func permit(caller auth.Caller, id string) error {
	switch {
	case !validID(id):
		return api.Fail(api.InvalidRequest, `The field "session_id" takes 1 to %d characters of A-Z a-z 0-9 . _ - and is neither . nor .. alone.`, maxID)
	case caller.Kind == auth.Anonymous:
		return api.Fail(api.InvalidRequest, `The field "session_id" takes a credential: without one every caller is the same, and would read the conversations of all.`)
	}
	return nil
}

// turn is a message and its answer.
type turn struct {
	ID      string    `json:"id"` // random: two equal turns are two
	Time    time.Time `json:"time"`
	Agent   string    `json:"agent"`
	Message string    `json:"message"`
	Answer  string    `json:"answer"`
}

// conversation is the value of an item. Its turns stay encoded, for what counts is
// how long they are so.
type conversation struct {
	CreatedAt time.Time         `json:"created_at"`
	Turns     []json.RawMessage `json:"turns"` // oldest first
}

// Bounds of an encoded conversation, in bytes.
const (
	envelope = 128                                // around the turns
	header   = 1 << 10                            // of a turn, around its texts
	maxTexts = table.MaxValue - envelope - header // of a turn, both
)

// newTurn is a turn that fits into a conversation. If only one of its texts is
// too long, that one is cut.
func newTurn(now time.Time, agent, message, answer string) (json.RawMessage, error) {
	t := turn{ID: rand.Text(), Time: now, Agent: agent}
	t.Message = shorten(message, maxTexts-min(size(answer), maxTexts/2))
	t.Answer = shorten(answer, maxTexts-size(t.Message))
	encoded, err := api.Encode(t)
	return bytes.TrimSpace(encoded), err
}

// cut ends a text whose rest was too long, as in a workflow's results.
const cut = "\n[The rest is left out.]"

// shorten is s as far as it has room bytes in JSON.
func shorten(s string, room int) string {
	if size(s) <= room {
		return s
	}
	room -= size(cut)
	for i, r := range s {
		if room -= width(r); room < 0 {
			return s[:i] + cut
		}
	}
	return s
}

// head is s as far as it has room bytes.
func head(s string, room int) string {
	if len(s) <= room {
		return s
	}
	return strings.ToValidUTF8(s[:room-len(cut)], "") + cut
}

// size is the most bytes that s takes in JSON, without its quotes.
func size(s string) int {
	n := 0
	for _, r := range s {
		n += width(r)
	}
	return n
}

// width is size for a character; a byte that is none counts as what JSON has in
// its place.
func width(r rune) int {
	switch {
	case r == '\n', r == '\r', r == '\t', r == '"', r == '\\':
		return len(`\n`)
	case r < ' ', r == '\u2028', r == '\u2029', r == utf8.RuneError:
		return len(`\u2028`)
	default:
		return utf8.RuneLen(r)
	}
}

// add adds a turn and drops the oldest, so that all have room in one item.
func (c *conversation) add(t json.RawMessage) {
	c.Turns = append(c.Turns, t)
	room, first := table.MaxValue-envelope, len(c.Turns)
	for first > 0 {
		if room -= len(c.Turns[first-1]) + len(","); room < 0 {
			break
		}
		first--
	}
	c.Turns = c.Turns[first:]
}

// turns decodes c's.
func (c *conversation) turns() ([]turn, error) {
	turns := make([]turn, len(c.Turns))
	for i, t := range c.Turns {
		if err := json.Unmarshal(t, &turns[i]); err != nil {
			return nil, fmt.Errorf("turn %d of a conversation is damaged: %w", i+1, err)
		}
	}
	return turns, nil
}

// told is the last of turns, as many as MaxTold has room for, as a model reads
// them. One that is larger by itself is told with its longer text cut: what was
// said last is what the next question is about.
func told(turns []turn) []model.Message {
	room, first := MaxTold, len(turns)
	for first > 0 {
		if room -= len(turns[first-1].Message) + len(turns[first-1].Answer); room < 0 {
			break
		}
		first--
	}
	if first == len(turns) && first > 0 {
		first--
		t := turns[first]
		t.Message = head(t.Message, MaxTold-min(len(t.Answer), MaxTold/2))
		t.Answer = head(t.Answer, MaxTold-len(t.Message))
		turns = []turn{t}
		first = 0
	}
	var messages []model.Message
	for _, t := range turns[first:] {
		messages = append(messages, model.Message{Role: model.User, Text: t.Message}, model.Message{Role: model.Assistant, Text: t.Answer})
	}
	return messages
}
