package sessions_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/sessions"
	"postern/shared/table"
	"postern/shared/table/memory"
)

const day = 24 * time.Hour

// site is conversations in a table that can be watched and made to fail, with a
// clock that is moved by hand.
type site struct {
	testing.TB
	*sessions.Store
	memory *memory.Table
	now    time.Time

	before func(op string) error // told of each operation; its error is the operation's
}

func newSite(t testing.TB) *site {
	s := &site{TB: t, now: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return s.now }
	s.memory = &memory.Table{Now: clock}
	s.Store = &sessions.Store{Table: faulty{s.memory, s}, Keep: 30 * day, Now: clock}
	return s
}

type faulty struct {
	*memory.Table
	*site
}

func (f faulty) tell(op string) error {
	if f.before == nil {
		return nil
	}
	return f.before(op)
}

func (f faulty) Get(ctx context.Context, key table.Key) (table.Item, error) {
	if err := f.tell("get"); err != nil {
		return table.Item{}, err
	}
	return f.Table.Get(ctx, key)
}

func (f faulty) Put(ctx context.Context, key table.Key, value []byte, expected int64, expires time.Time) (int64, error) {
	if err := f.tell("put"); err != nil {
		return 0, err
	}
	return f.Table.Put(ctx, key, value, expected, expires)
}

func (f faulty) Delete(ctx context.Context, key table.Key, expected int64) error {
	if err := f.tell("delete"); err != nil {
		return err
	}
	return f.Table.Delete(ctx, key, expected)
}

var alice, bob = auth.Caller{ID: "alice", Kind: auth.IssuedKey, Scopes: auth.RootCaller().Scopes}, auth.Caller{ID: "bob", Kind: auth.IssuedKey, Scopes: auth.RootCaller().Scopes}

// say adds a turn to alice's conversation "s".
func (s *site) say(message, answer string) {
	s.Helper()
	if err := s.Append(s.Context(), alice, "s", "judge", message, answer); err != nil {
		s.Fatal(err)
	}
}

// read is what a model is told of alice's conversation "s".
func (s *site) read() []model.Message {
	s.Helper()
	messages, err := s.Read(s.Context(), alice, "s")
	if err != nil {
		s.Fatal(err)
	}
	return messages
}

// kept is the texts of alice's conversation "s", as her transcript has them.
func (s *site) kept() (texts []string) {
	s.Helper()
	var t transcript
	if err := json.Unmarshal([]byte(s.get(alice, "s").Body), &t); err != nil {
		s.Fatal(err)
	}
	for _, m := range t.Messages {
		texts = append(texts, m.Content)
	}
	return texts
}

// item is what the table has of alice's conversation "s".
func (s *site) item() table.Item {
	s.Helper()
	item, err := s.memory.Get(s.Context(), table.Key{Partition: "session#alice", Sort: "s"})
	if err != nil {
		s.Fatal(err)
	}
	return item
}

func said(texts ...string) (messages []model.Message) {
	for i, text := range texts {
		messages = append(messages, model.Message{Role: []model.Role{model.User, model.Assistant}[i%2], Text: text})
	}
	return messages
}

// awkward is texts that JSON, Go or a table might change.
var awkward = []string{
	"", " ", "plain", "a\nb\r\n\tc", `"quoted" \"twice\" \\`, "<script>&amp;</script>", "\u2028\u2029\u0085", "\x00\x01\x1f\x7f", "\ufeff\U0001F600é日本語\ufffd", `{"role":"system"}`, "{}", "null",
}

// What was said is told word for word, question and answer in turn.
func TestAConversationIsTold(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if got := s.read(); got != nil {
		t.Errorf("of what nobody has begun there is %v", got)
	}
	var want []string
	for i, text := range awkward {
		s.say(text, fmt.Sprint("answer ", i, text))
		want = append(want, text, fmt.Sprint("answer ", i, text))
	}
	if diff := cmp.Diff(said(want...), s.read()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, s.kept()); diff != "" {
		t.Errorf("the transcript (-want +got):\n%s", diff)
	}
}

// P13: another's conversation is like none, to read and to add to.
func TestAConversationIsItsCallers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.say("alice's", "answer")
	if got, err := s.Read(t.Context(), bob, "s"); got != nil || err != nil {
		t.Errorf("bob is told %v, %v", got, err)
	}
	if err := s.Append(t.Context(), bob, "s", "judge", "bob's", "answer"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(said("alice's", "answer"), s.read()); diff != "" {
		t.Errorf("alice is told (-want +got):\n%s", diff)
	}
	if got, err := s.Read(t.Context(), bob, "s"); err != nil || cmp.Diff(said("bob's", "answer"), got) != "" {
		t.Errorf("bob is told %v, %v", got, err)
	}
	rotated := alice // and has another name and bounds by now
	rotated.Name, rotated.Agents = "new", []string{"clerk"}
	if got, err := s.Read(t.Context(), rotated, "s"); err != nil || len(got) != 2 {
		t.Errorf("after a rotation: %v, %v", got, err)
	}
}

// Contract §4: 1 to 128 of [A-Za-z0-9._-]; a fault names the field and what it
// takes.
func TestIDs(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		about, id string
		valid     bool
	}{
		{"a letter", "a", true},
		{"all of them", "ABCXYZabcxyz0123456789._-", true},
		{"a UUID", "6e8bc430-9c3a-11d9-9669-0800200c9a66", true},
		{"128 characters", strings.Repeat("x", 128), true},
		{"three dots", "...", true},
		{"dots at the ends", ".a.", true},
		{"nothing", "", false},
		{"129 characters", strings.Repeat("x", 129), false},
		{"a dot, which no path can name", ".", false},
		{"two dots", "..", false},
		{"a slash", "a/b", false},
		{"the table's own sign", "a#b", false},
		{"a blank", "a b", false},
		{"a line break", "a\n", false},
		{"a NUL", "a\x00", false},
		{"a letter of another alphabet", "ä", false},
		{"a character that folds to ASCII", "\u212a", false},
		{"no UTF-8", "a\xff", false},
		{"the neighbours of letters", "@[`{", false},
		{"the neighbours of letters, one by one", "@", false},
		{"a bracket", "[", false},
		{"a backtick", "`", false},
		{"a brace", "{", false},
		{"the neighbours of digits", "/:", false},
		{"a colon", ":", false},
	} {
		t.Run(row.about, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			_, err := s.Read(t.Context(), alice, row.id)
			adding := s.Append(t.Context(), alice, row.id, "judge", "m", "a")
			if row.valid {
				if err != nil || adding != nil || s.get(alice, row.id).Status != 200 {
					t.Errorf("%v, %v", err, adding)
				}
				return
			}
			if adding == nil || err == nil {
				t.Fatal("it is an id")
			}
			if p := api.ProblemOf(err, ""); p.Status != 400 || p.Error != "Invalid request" || !strings.Contains(p.Detail, `"session_id" takes 1 to 128 characters`) {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Everybody is anonymous to each other: no conversation of theirs is anybody's.
func TestAnonymousCallersHaveNoConversations(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.Read(t.Context(), auth.AnonymousCaller(), "s")
	if p := api.ProblemOf(err, ""); err == nil || p.Status != 400 || !strings.Contains(p.Detail, `"session_id" takes a credential`) {
		t.Errorf("%v %+v", err, p)
	}
	if s.Append(t.Context(), auth.AnonymousCaller(), "s", "judge", "m", "a") == nil {
		t.Error("a turn is kept")
	}
	for _, got := range []reply{s.get(auth.AnonymousCaller(), "s"), s.delete(auth.AnonymousCaller(), "s")} {
		if got.Status != 404 {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	}
}

// A conversation ends Keep after its last turn, whatever reads it.
func TestExpiry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	begun := s.now
	s.say("one", "1")
	s.now = begun.Add(20 * day)
	s.say("two", "2")
	s.now = begun.Add(50*day - time.Second)
	if diff := cmp.Diff(said("one", "1", "two", "2"), s.read()); diff != "" {
		t.Errorf("before its end (-want +got):\n%s", diff)
	}
	s.now = begun.Add(50 * day)
	if got := s.read(); got != nil || s.get(alice, "s").Status != 404 || s.delete(alice, "s").Status != 404 {
		t.Errorf("after its end there is %v", got)
	}
	s.say("three", "3")
	if diff := cmp.Diff([]string{"three", "3"}, s.kept()); diff != "" {
		t.Errorf("begun anew (-want +got):\n%s", diff)
	}
}

// Two requests at once don't lose a turn; nor do many. In a bubble the time that a
// change has isn't used up by a machine that is slow.
func TestConcurrentTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				if _, err := s.Read(t.Context(), alice, "s"); err != nil {
					t.Error(err)
				}
				if err := s.Append(t.Context(), alice, "s", "judge", fmt.Sprint("message ", i), fmt.Sprint("answer ", i)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		texts := s.kept()
		found := map[string]bool{}
		for i := 0; i+1 < len(texts); i += 2 {
			found[texts[i]] = true
			if strings.TrimPrefix(texts[i], "message ") != strings.TrimPrefix(texts[i+1], "answer ") {
				t.Errorf("%q is answered with %q", texts[i], texts[i+1])
			}
		}
		if len(texts) != 128 || len(found) != 64 {
			t.Errorf("%d texts, %d different messages", len(texts), len(found))
		}
	})
}

// A table that never lets anybody through ends the try, in time for the answer.
func TestEndlessConflicts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.before = func(op string) error {
			if op == "get" {
				return nil
			}
			return table.ErrConflict
		}
		start := time.Now()
		err := s.Append(t.Context(), alice, "s", "judge", "m", "a")
		if took := time.Since(start); err == nil || !errors.Is(err, context.DeadlineExceeded) || took < time.Second || took > 4*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// What a table that is down makes of each step.
func TestTheTableIsDown(t *testing.T) {
	t.Parallel()
	down := errors.New("the table is down: CANARY")
	for _, op := range []string{"get", "put", "delete"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.say("one", "1")
			s.before = func(o string) error {
				if o == op {
					return down
				}
				return nil
			}
			_, reading := s.Read(t.Context(), alice, "s")
			if p := api.ProblemOf(reading, ""); (reading != nil) != (op == "get") || reading != nil && (p.Status != 503 || p.Error != "Service unavailable") {
				t.Errorf("to read it: %v", reading)
			}
			if err := s.Append(t.Context(), alice, "s", "judge", "two", "2"); errors.Is(err, down) != (op != "delete") {
				t.Errorf("to add to it: %v", err)
			}
			if got, want := s.get(alice, "s"), map[bool]int{true: 503, false: 200}[op == "get"]; got.Status != want || strings.Contains(got.Body, "CANARY") {
				t.Errorf("to show it: %d %s", got.Status, got.Body)
			}
			if got, want := s.delete(alice, "s"), map[bool]int{true: 204, false: 503}[op == "put"]; got.Status != want || strings.Contains(got.Body, "CANARY") {
				t.Errorf("to delete it: %d %s", got.Status, got.Body)
			}
		})
	}
}

// An item that can't be understood is neither an empty conversation nor
// overwritten.
func TestADamagedConversation(t *testing.T) {
	t.Parallel()
	for _, value := range []string{``, `[]`, `{"turns":7}`, `{"turns":[7]}`} {
		s := newSite(t)
		if _, err := s.memory.Put(t.Context(), table.Key{Partition: "session#alice", Sort: "s"}, []byte(value), 0, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(t.Context(), alice, "s"); err == nil || api.ProblemOf(err, "").Status != 503 {
			t.Errorf("%s: it is read: %v", value, err)
		}
		if got := s.get(alice, "s"); got.Status != 503 {
			t.Errorf("%s: it is shown: %d %s", value, got.Status, got.Body)
		}
		if got := s.delete(alice, "s"); got.Status != 204 {
			t.Errorf("%s: it can't be deleted: %d %s", value, got.Status, got.Body)
		}
	}
}

// A turn is added even for a caller who has left.
func TestATurnOfWhoHasLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if err := s.Append(ctx, alice, "s", "judge", "m", "a"); err != nil || len(s.kept()) != 2 {
		t.Errorf("%v", err)
	}
}

// letters is units of text, by what they cost in JSON.
var letters = map[string]string{
	"plain": "x", "four bytes": "\U0001F600", "quotes": `"`, "line breaks": "\n", "control characters": "\x01", "line separators": "\u2028", "no UTF-8": "\xff",
}

// encoded is s in JSON, without its quotes.
func encoded(t *testing.T, s string) string {
	t.Helper()
	text, err := api.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(strings.TrimSpace(string(text)), `"`)
}

// What is kept has room in one item; the oldest turns drop first, each as a
// whole, and no more of them than must. It is in a bubble, as are others that write
// much, for what a slow machine needs would use up the time that a change has.
func TestOldTurnsDrop(t *testing.T) {
	t.Parallel()
	for name, unit := range letters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				random := rand.New(rand.NewPCG(1, 2))
				most := 100_000 / len(encoded(t, unit)) // of a text, so that half a dozen turns have room
				var all []string
				var sizes []int // of turns, in JSON
				dropped := 0
				for i := range 9 {
					message, answer := fmt.Sprint(i, strings.Repeat(unit, random.IntN(most))), fmt.Sprint(i, strings.Repeat(unit, random.IntN(most)))
					s.say(message, answer)
					all = append(all, strings.ReplaceAll(message, "\xff", "\ufffd"), strings.ReplaceAll(answer, "\xff", "\ufffd"))
					sizes = append(sizes, len(encoded(t, message+answer)))
					got := s.kept()
					if len(got)%2 != 0 || len(got) == 0 || cmp.Diff(all[len(all)-len(got):], got) != "" {
						t.Fatalf("after %d turns there are %d texts, which aren't the last", i+1, len(got))
					}
					switch value := len(s.item().Value); {
					case value > table.MaxValue:
						t.Fatalf("%d bytes", value)
					case len(all)-len(got) > dropped && value+sizes[(len(all)-len(got))/2-1] < table.MaxValue-1024:
						t.Fatalf("after %d turns there are %d texts, in %d bytes", i+1, len(got), value)
					}
					dropped = len(all) - len(got)
				}
			})
		})
	}
}

// Of many small turns as many are kept as have room.
func TestManySmallTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		text := strings.Repeat("x", 4000)
		for range 50 {
			s.say(text, text)
		}
		if n := len(s.item().Value); n > table.MaxValue || n < table.MaxValue-9000 {
			t.Errorf("%d bytes are kept", n)
		}
	})
}

// A turn that alone is too large is cut at a character, its longer text first.
func TestALargeTurnIsCut(t *testing.T) {
	t.Parallel()
	const mark = "\n[The rest is left out.]"
	for name, unit := range letters {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				long := strings.Repeat(unit, 360<<10/len(unit))
				for _, row := range []struct{ message, answer string }{{long, "short"}, {"short", long}, {long, long}} {
					s := newSite(t)
					s.say(strings.Repeat("before", 1000), "1")
					s.say(row.message, row.answer)
					got := s.kept()
					if n := len(s.item().Value); n > table.MaxValue || n < table.MaxValue-2<<10 {
						t.Errorf("%d bytes are kept", n)
					}
					if len(got) != 2 {
						t.Fatalf("%d texts are kept", len(got))
					}
					for i, text := range []string{row.message, row.answer} {
						if text == "short" && got[i] != text || !utf8.ValidString(got[i]) {
							t.Errorf("text %d is %.50q", i, got[i])
						}
						if text == long {
							begin, cut := strings.CutSuffix(got[i], mark)
							if !cut || strings.Trim(begin, unit+"\ufffd") != "" || len(begin) < 20<<10 {
								t.Errorf("text %d has %d bytes and ends in %q", i, len(got[i]), got[i][len(got[i])-40:])
							}
						}
					}
					s.say("after", "3")
					if texts := s.kept(); texts[len(texts)-1] != "3" || len(s.item().Value) > table.MaxValue {
						t.Errorf("the next turn: %d texts", len(texts))
					}
				}
			})
		})
	}
}

// A message of the largest size beside an ordinary answer is kept whole.
func TestTheLargestMessageIsKeptWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		message, answer := strings.Repeat("x", 256<<10), strings.Repeat("y", 80<<10)
		s.say(message, answer)
		if got := s.kept(); len(got) != 2 || got[0] != message || got[1] != answer {
			t.Errorf("%d texts", len(got))
		}
	})
}

// The last turn is told even if it is larger than all that is told: what was said
// last is what the next question is about. Its longer text is cut at a character.
func TestALargeTurnIsToldCut(t *testing.T) {
	t.Parallel()
	const gap = "\n[The rest is left out.]"
	long := strings.Repeat("é", sessions.MaxTold)
	for _, row := range []struct {
		name, message, answer string
		cut                   [2]bool
	}{
		{"a long message", long, "short", [2]bool{true, false}},
		{"a long answer", "short", "x" + long, [2]bool{false, true}},
		{"both", "x" + long, long, [2]bool{true, true}},
		{"one byte too many", "ab", strings.Repeat("x", sessions.MaxTold-1), [2]bool{false, true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.say("older", "older")
				s.say(row.message, row.answer)
				got := s.read()
				if len(got) != 2 {
					t.Fatalf("%d messages are told", len(got))
				}
				size := 0
				for i, said := range []string{row.message, row.answer} {
					text := got[i].Text
					size += len(text)
					head, cut := strings.CutSuffix(text, gap)
					if cut != row.cut[i] || !strings.HasPrefix(said, head) || !cut && text != said || !utf8.ValidString(text) {
						t.Errorf("text %d: %d bytes of %d, cut: %v", i, len(text), len(said), cut)
					}
				}
				if size > sessions.MaxTold || size < sessions.MaxTold-8 {
					t.Errorf("%d bytes are told", size)
				}
			})
		})
	}
}

// What a model is told is bounded in bytes; the oldest turns drop first, whole.
func TestWhatIsToldIsBounded(t *testing.T) {
	t.Parallel()
	half := strings.Repeat("é", sessions.MaxTold/4) // half of the bound, in bytes
	for _, row := range []struct {
		name  string
		turns [][2]string
		want  int // of the last turns
	}{
		{"all that there is", [][2]string{{half, ""}, {"", half}}, 2},
		{"a byte too many", [][2]string{{half, ""}, {"x", half}}, 1},
		{"a byte too many in the oldest", [][2]string{{"", half + "x"}, {"", half}}, 1},
		{"a turn of the whole bound", [][2]string{{"a", "b"}, {half, half}}, 1},
		{"no turn is skipped", [][2]string{{"a", "b"}, {half, half}, {"c", "d"}}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				var texts []string
				for _, turn := range row.turns {
					s.say(turn[0], turn[1])
					texts = append(texts, turn[0], turn[1])
				}
				if diff := cmp.Diff(said(texts[len(texts)-2*row.want:]...), s.read()); diff != "" {
					t.Errorf("(-want +got):\n%.500s", diff)
				}
				if got := s.kept(); len(got) != len(texts) {
					t.Errorf("%d of %d texts are kept", len(got), len(texts))
				}
			})
		})
	}
}
