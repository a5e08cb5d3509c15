package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/shared/audit"
	"postern/shared/check"
	"postern/shared/keys"
	"postern/shared/table"
	"postern/shared/table/dynamodb"
)

// bound is how long a change may take to hold in every process (P2).
const bound = 5 * time.Second

// TestALifeOfAKey takes a key from its creation to its end. Another process than
// the one that refuses acts: the command line beside the server; on Lambda the
// functions of one stack, and the authorizer of another had the key cached.
func TestALifeOfAKey(t *testing.T) {
	t.Parallel()
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		here := start(t, nil)
		l := life{t: t, s: here.side(t)}
		l.other = l.s
		run := func(arguments ...string) {
			var stderr strings.Builder
			cmd := command(t, here.dir, append([]string{"keys"}, arguments...)...)
			cmd.Stderr = &stderr
			if out, err := cmd.Output(); err != nil {
				t.Errorf("postern keys %v: %v %s%s", arguments, err, out, &stderr)
			}
			l.told.WriteString(stderr.String())
		}
		l.disable = func(id string) { run("update", id, "--disable", "--yes") }
		l.revoke = func(id string) { run("revoke", id, "--yes") }
		l.live()
		here.end(os.Interrupt)
		l.verify(here.logs())
		l.search("the data folder", folder(t, filepath.Join(here.dir, ".postern")))
	})
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		one := deploy(t, nil, nil)
		two := stack{beside: one}.deploy(t)
		l := life{t: t, s: one.side(t), other: two.side(t)}
		l.disable = func(id string) { l.s.as(t, token, send("PATCH", "/keys/"+id, `{"disabled":true}`, fine)) }
		l.revoke = func(id string) { l.s.as(t, token, send("DELETE", "/keys/"+id, "", check.Want{Status: 204})) }
		l.live()
		one.end()
		two.end()
		l.verify(one.logs() + two.logs())
		l.search("the table", items(t, one, l.tokens...))
	})
}

// life is a key, and another that is revoked in the middle.
type life struct {
	t               *testing.T
	s, other        side
	disable, revoke func(id string)
	told            strings.Builder // by the command line
	tokens          []string
	events          []audit.Event
}

// use shows a key to both processes.
func (l *life) use(token string, want check.Want) {
	l.t.Helper()
	for _, s := range []side{l.s, l.other} {
		s.as(l.t, token, get("/whoami", want))
	}
}

// left is how many requests of its hour a token is told to have.
func (l *life) left(credential string) (n int) {
	l.t.Helper()
	header := l.s.as(l.t, credential, get("/whoami", fine)).Header.Get("RateLimit")
	if _, err := fmt.Sscanf(header, `"hour";r=%d;`, &n); err != nil {
		l.t.Errorf("RateLimit %q", header)
	}
	return n
}

func (l *life) look(id string) record {
	l.t.Helper()
	answer := l.s.as(l.t, token, get("/keys/"+id, fine))
	for _, secret := range l.tokens {
		if leak := leakedKey(string(answer.Body), secret); leak != "" {
			l.t.Errorf("P4: GET /keys/{id} has %s in it", leak)
		}
	}
	return decode[record](l.t, answer)
}

func (l *life) live() {
	t := l.t
	withinAnHour(t) // or the limit would begin anew
	began := time.Now().Truncate(time.Second)
	key := l.s.issue(t, token, `{"name":"a life","scopes":["agents:read"],"tokens_per_day":5000}`)
	gone := l.s.issue(t, token, `{"name":"a short life","scopes":["agents:read"]}`)
	l.tokens = []string{key.Token, gone.Token}
	if id, err := keys.Parse(key.Token); id != key.ID || err != nil {
		t.Fatalf("the token is %s's: %v", id, err)
	}
	if used := l.look(key.ID).LastUsedAt; used != nil {
		t.Errorf("it was used at %s, before it was", *used)
	}
	l.use(key.Token, check.Want{Status: 200, JSON: map[string]any{"id": key.ID, "kind": "key", "name": "a life"}})
	if used := moment(l.look(key.ID).LastUsedAt); used.Before(began) || used.After(time.Now()) {
		t.Errorf("it was last used at %s, not since %s", used, began)
	}

	// Rotated: both work until the old one's end, on the dot, and are one caller
	// with one limit (P10).
	left := l.left(key.Token)
	sent := time.Now()
	rotated := decode[record](t, l.s.as(t, token, send("POST", "/keys/"+key.ID+"/rotate", `{"grace":"2s"}`, check.Want{Status: 200, JSON: map[string]any{"id": key.ID}})))
	l.tokens = append(l.tokens, rotated.Key)
	end := moment(rotated.PreviousExpiresAt)
	if end.Before(sent.Add(2*time.Second).Truncate(time.Millisecond)) || time.Until(end) > 2*time.Second {
		t.Errorf("a grace of 2 s, asked for at %s, ends at %s", sent, end)
	}
	l.use(rotated.Key, check.Want{Status: 200, JSON: map[string]any{"id": key.ID, "name": "a life"}})
	if now := l.left(rotated.Key); now >= left || now < left-10 {
		t.Errorf("%d requests were left, and %d after the rotation", left, now)
	}
	l.exactly(key.Token, end)
	l.use(key.Token, refused)
	l.use(rotated.Key, fine)
	l.use(gone.Token, fine)

	// Taken away elsewhere, while it is cached.
	l.disable(key.ID)
	l.revoke(gone.ID)
	l.within(bound, map[string]check.Want{rotated.Key: refused, gone.Token: refused})
	if !l.look(key.ID).Disabled || l.look(gone.ID).RevokedAt == nil {
		t.Error("their records don't say so")
	}

	// Given back for a short time. A token that is not the key's makes everybody
	// look again, so nobody need wait for the cache.
	l.s.as(t, token, send("PATCH", "/keys/"+key.ID, `{"disabled":false}`, fine))
	end = time.Now().Add(4 * time.Second).Truncate(time.Millisecond) // or it would be over before it is written, where much goes on
	l.s.as(t, token, send("PATCH", "/keys/"+key.ID, `{"expires_at":"`+end.UTC().Format(time.RFC3339Nano)+`"}`, fine))
	l.use(key.Token, refused)
	l.exactly(rotated.Key, end)
	l.use(rotated.Key, refused)

	// Over for good.
	l.revoke(key.ID)
	for _, c := range []check.Case{
		send("PATCH", "/keys/"+key.ID, `{"disabled":false,"expires_at":null}`, conflict),
		send("POST", "/keys/"+key.ID+"/rotate", `{"grace":"1h"}`, conflict),
		send("DELETE", "/keys/"+key.ID, "", check.Want{Status: 204}), // which stays as it is
	} {
		l.s.as(t, token, c)
	}
	l.use(rotated.Key, refused)
	if r := l.look(key.ID); r.RevokedAt == nil || r.Name != "a life" {
		t.Errorf("the record is %+v", r)
	}

	events := l.s.chain(t)
	want := "keys.create keys.create.succeeded keys.create keys.create.succeeded keys.rotate keys.rotate.succeeded " +
		"keys.update keys.update.succeeded keys.revoke keys.revoke.succeeded keys.update keys.update.succeeded " +
		"keys.update keys.update.succeeded keys.revoke keys.revoke.succeeded"
	if got := actions(events); got != want {
		t.Errorf("the audit log has\n%s, want\n%s", got, want)
	}
	for i, e := range events {
		id := key.ID
		if i == 2 || i == 3 || i == 8 || i == 9 {
			id = gone.ID
		}
		if e.Target != id || e.Actor != "root" && e.Actor != "local" || e.IP == "" {
			t.Errorf("event %d is by %s from %s about %s", e.Seq, e.Actor, e.IP, e.Target)
		}
	}
	l.events = events
}

// moment is a time of the API's; the zero time is none.
func moment(text *string) time.Time {
	if text == nil {
		return time.Time{}
	}
	at, _ := time.Parse(time.RFC3339, *text)
	return at
}

// exactly asks both processes again and again: a token works until end, and no
// longer.
func (l *life) exactly(token string, end time.Time) {
	l.t.Helper()
	for over := false; !over; time.Sleep(30 * time.Millisecond) {
		for _, s := range []side{l.s, l.other} {
			sent := time.Now()
			status := s.status(l.t, token)
			switch over = !sent.Before(end); {
			case over && status != 401:
				l.t.Errorf("%s: %d, %s after its end", s.name, status, sent.Sub(end))
			case time.Now().Before(end) && status != 200:
				l.t.Errorf("%s: %d, %s before its end", s.name, status, time.Until(end))
			}
		}
	}
}

// within waits until both processes answer as they must, which may take d, and
// then goes on for good.
func (l *life) within(d time.Duration, wants map[string]check.Want) {
	l.t.Helper()
	acknowledged := time.Now()
	settled := map[string]bool{}
	for len(settled) < 2*len(wants) {
		for token, want := range wants {
			for i, s := range []side{l.s, l.other} {
				sent, place := time.Now(), fmt.Sprint(i, token)
				switch status := s.status(l.t, token); {
				case status == want.Status:
					settled[place] = true
				case settled[place] || sent.Sub(acknowledged) > d:
					l.t.Fatalf("%s: %d, %s after the change", s.name, status, sent.Sub(acknowledged))
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	for token, want := range wants {
		l.use(token, want)
	}
}

// verify holds the audit log against the logs, in which no token stands.
func (l *life) verify(logs string) {
	logs += l.told.String()
	if n := len(heads(logs)); n != len(l.events)/2 {
		l.t.Errorf("the logs tell of %d heads of the audit log", n)
	}
	if unmatched := verify(l.t, l.events, logs); len(unmatched) > 0 {
		l.t.Errorf("the audit log has halves: %v", unmatched)
	}
	for _, token := range l.tokens {
		if leak := leakedKey(logs, token); leak != "" {
			l.t.Errorf("P4: the logs have %s in them", leak)
		}
	}
	for _, reason := range []string{"unknown", "disabled", "expired", "revoked"} {
		if !strings.Contains(logs, `"reason":"`+reason+`"`) {
			l.t.Errorf("the logs tell of nobody who was refused because the key was %s", reason)
		}
	}
}

// search looks for tokens where keys are kept: their digests are there alone.
func (l *life) search(where, kept string) {
	for i, token := range l.tokens {
		sum := sha256.Sum256([]byte(token))
		digest := hex.EncodeToString(sum[:])
		if rotatedAway := i == 0; !rotatedAway && !strings.Contains(kept, digest) {
			l.t.Errorf("%s lacks the digest of token %d: it isn't where keys are kept", where, i)
		}
		if leak := leakedKey(strings.ReplaceAll(kept, digest, ""), token); leak != "" {
			l.t.Errorf("P4: %s has %s in it", where, leak)
		}
	}
}

// leakedKey says what of an issued key's token stands in text; nothing: "".
func leakedKey(text, token string) string {
	const secret, check = len("postern_000000000000_"), 6
	if len(token) <= secret+check {
		return "no token to look for"
	}
	sum := sha256.Sum256([]byte(token))
	for what, needle := range map[string]string{
		"a key's secret":             token[secret : len(token)-check],
		"a half of a key's secret":   token[secret:][:20],
		"a key's digest":             hex.EncodeToString(sum[:]),
		"a key's digest, base64":     base64.RawStdEncoding.EncodeToString(sum[:]),
		"a key's digest, base64 URL": base64.RawURLEncoding.EncodeToString(sum[:]),
		"a key, base64":              base64.RawStdEncoding.EncodeToString([]byte(token[:60])),
	} {
		if strings.Contains(text, needle) {
			return what
		}
	}
	return ""
}

// folder is all that the files of a folder say.
func folder(t *testing.T, dir string) string {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// items is all that the stack's table says of the keys with tokens, and of the
// audit log.
func items(t *testing.T, d *deployment, tokens ...string) string {
	t.Helper()
	store, err := dynamodb.New(dynamodb.Config{Table: tableName, Getenv: func(name string) string {
		return map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": d.table.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "x"}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	partitions := []string{"audit"}
	for _, token := range tokens {
		partitions = append(partitions, "key#"+token[len("postern_"):][:1])
	}
	var all bytes.Buffer
	for _, partition := range partitions {
		items, err := store.List(t.Context(), partition, table.Query{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			fmt.Fprintf(&all, "%s %s %s\n", item.Partition, item.Sort, item.Value)
		}
	}
	return all.String()
}

// TestTwoAdministrators at once: of two who change one version of a key one wins,
// and whoever does something finds a place in the audit log.
func TestTwoAdministrators(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		const administrators = 4 // who write 25 times in all; where a disk is slow, many more would take longer than the 5 s that each has
		key := s.issue(t, token, `{"name":"before","scopes":["chat"]}`)
		var changed, refused atomic.Int32
		var made sync.Map
		var all sync.WaitGroup
		for i := range administrators {
			all.Go(func() {
				c := send("PATCH", "/keys/"+key.ID, fmt.Sprintf(`{"name":"by %d"}`, i), check.Want{})
				c.Header = map[string][]string{"If-Match": {`"1"`}}
				switch status := s.raw(t, token, c); status {
				case 200:
					changed.Add(1)
				case 409:
					refused.Add(1)
				default:
					t.Errorf("an administrator of many gets %d", status)
				}
				made.Store(s.issue(t, token, `{"name":"one of many","scopes":["chat"]}`).ID, true)
			})
		}
		all.Wait()
		if changed.Load() != 1 || refused.Load() != administrators-1 {
			t.Errorf("%d of %d changed version 1, and %d were told", changed.Load(), administrators, refused.Load())
		}
		s.as(t, token, get("/keys/"+key.ID, check.Want{Status: 200, Header: map[string]string{"ETag": `"2"`}}))

		events := s.chain(t)
		if unmatched := verify(t, events, ""); len(unmatched) > 0 {
			t.Errorf("the audit log has halves: %v", unmatched)
		}
		if n := strings.Count(actions(events), "keys.create.succeeded"); n != administrators+1 {
			t.Errorf("the audit log tells of %d new keys", n)
		}

		var listed []string
		for after := ""; ; {
			page := decode[struct {
				Keys []record
				Next *string
			}](t, s.as(t, token, get("/keys?limit=5&after="+after, fine)))
			for _, k := range page.Keys {
				listed = append(listed, k.ID)
				made.Delete(k.ID)
			}
			if page.Next == nil || t.Failed() {
				break
			}
			after = *page.Next
		}
		made.Range(func(id, _ any) bool { t.Errorf("the pages lack key %s", id); return true })
		if len(listed) != administrators+1 || !slices.IsSorted(listed) {
			t.Errorf("the pages have %v", listed)
		}
	})
}

// TestRotatedAwayAtOnce: a cache may let a token in for a moment that was rotated
// away, and yet it does nothing to a key.
func TestRotatedAwayAtOnce(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		deputy := s.issue(t, token, `{"name":"deputy","scopes":["chat","admin"]}`)
		s.as(t, deputy.Token, get("/keys", fine))
		s.as(t, deputy.Token, send("PATCH", "/keys/"+deputy.ID, `{"name":"a deputy"}`, fine))
		now := decode[record](t, s.as(t, token, send("POST", "/keys/"+deputy.ID+"/rotate", `{"grace":"0"}`, fine))).Key
		acts := []check.Case{
			send("POST", "/keys", `{"name":"another","scopes":["chat"]}`, check.Want{}),
			send("PATCH", "/keys/"+deputy.ID, `{"disabled":true}`, check.Want{}),
			send("POST", "/keys/"+deputy.ID+"/rotate", `{"grace":"1h"}`, check.Want{}),
			send("DELETE", "/keys/"+deputy.ID, "", check.Want{}),
		}
		for _, c := range acts {
			if status := s.raw(t, deputy.Token, c); status != 401 {
				t.Errorf("%s %s with a token that was rotated away: %d", c.Method, c.Path, status)
			}
		}
		s.issue(t, now, `{"name":"another","scopes":["chat"]}`)
		s.as(t, now, send("PATCH", "/keys/"+deputy.ID, `{"name":"b"}`, fine))
	})
}

// TestP17NothingThatWasAcknowledgedIsLost kills the server while administrators
// make keys.
func TestP17NothingThatWasAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	here := start(t, nil)
	s := here.side(t)
	var mu sync.Mutex
	var made []check.Key
	enough := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for {
				response, faults := s.run(t, token, send("POST", "/keys", `{"name":"made under fire","scopes":["agents:read"]}`, check.Want{Status: 201}))
				if response == nil {
					return // it is dead
				}
				if response.Status == 503 {
					continue // nothing was acknowledged: on a slow disk the others may be faster for too long
				}
				if len(faults) > 0 {
					t.Error(faults)
				}
				k := decode[record](t, response)
				mu.Lock()
				if made = append(made, check.Key{ID: k.ID, Token: k.Key}); len(made) == 100 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	here.end(syscall.SIGKILL)
	all.Wait()

	again := startIn(t, here.dir, nil).side(t)
	for _, k := range made {
		again.as(t, k.Token, get("/whoami", check.Want{Status: 200, JSON: map[string]any{"id": k.ID}}))
	}
	events := again.chain(t)
	for _, e := range verify(t, events, here.logs()) {
		if _, outcome := e.Act(); outcome != "" {
			t.Errorf("event %d is the outcome of nothing", e.Seq)
		}
	}
	if len(heads(here.logs())) == 0 {
		t.Error("the log of the dead server tells of no head of the audit log")
	}
	succeeded := map[string]bool{}
	for _, e := range events {
		if e.Action == "keys.create.succeeded" {
			succeeded[e.Target] = true
		}
	}
	for _, k := range made {
		if !succeeded[k.ID] {
			t.Errorf("key %s was acknowledged, and the audit log doesn't know it", k.ID)
		}
	}
	again.issue(t, token, `{"name":"made after","scopes":["chat"]}`) // the chain goes on
	verify(t, again.chain(t), here.logs())
}

// TestADataFolderHasOneServer: a second one refuses, and names the folder.
func TestADataFolderHasOneServer(t *testing.T) {
	t.Parallel()
	here := start(t, nil)
	data := filepath.Join(here.dir, ".postern")
	second := command(t, t.TempDir(), "run", "--port", "0")
	second.Env = append(second.Env, "DATA_DIR="+data, "API_TOKEN="+token)
	var stderr strings.Builder
	second.Stderr = &stderr
	timer := time.AfterFunc(patience, func() { second.Process.Kill() })
	defer timer.Stop()
	if err := second.Run(); err == nil || !regexp.MustCompile(`(?m)^postern: DATA_DIR: .*`+regexp.QuoteMeta(data)).MatchString(stderr.String()) {
		t.Errorf("a second server ends with %v and says %s", err, &stderr)
	}
	here.side(t).as(t, token, get("/whoami", fine))
}
