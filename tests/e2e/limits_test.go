package e2e_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/shared/check"
	"postern/shared/table/sqlite"
	"postern/shared/usage"
	"postern/tests/dynamofake"
)

// hourly is the limit of a key that clients ask beyond, all at once.
const (
	hourly  = 100
	asked   = 300
	clients = 64
)

// TestP7ALimitIsExact: of many requests at once as many are admitted as the limit
// says, whichever process counts, and a restart in the middle of the hour admits
// none more.
func TestP7ALimitIsExact(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]syscall.Signal{"local, stopped": syscall.SIGTERM, "local, killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here := start(t, nil)
			withinAnHour(t)
			s := here.side(t)
			key := spend(t, s)
			last := s.issue(t, token, `{"name":"last","scopes":["chat"],"rate_limit":3}`)
			for range 3 {
				s.as(t, last.Token, get("/whoami", fine))
			}
			if end == syscall.SIGKILL {
				isKept(t, here, last, 3) // a crash may forget the last second
			}
			here.end(end)
			again := startIn(t, here.dir, nil).side(t)
			again.as(t, last.Token, get("/whoami", check.Want{Status: 429, Error: "Rate limit exceeded"}))
			again.spent(t, key)
			again.reported(t, key, asked+len(afterwards))
		})
	}
	t.Run("Lambda", func(t *testing.T) {
		t.Parallel()
		one := stack{atOnce: 3}.deploy(t)
		two := stack{atOnce: 3, beside: one}.deploy(t)
		three := stack{beside: one}.deploy(t)
		withinAnHour(t)
		key := spend(t, one.side(t), two.side(t))
		three.side(t).spent(t, key)
		three.side(t).reported(t, key, asked+len(afterwards))
	})
}

// isKept waits until a local server's file has so many requests of a key, which
// are what was counted last.
func isKept(t *testing.T, here *local, key check.Key, requests int64) {
	t.Helper()
	file, err := sqlite.Beside(sqlite.Config{Dir: filepath.Join(here.dir, ".postern")})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ledger := usage.New(file, slog.New(slog.DiscardHandler), nil)
	eventually(t, "the limit is in the file", func() bool {
		now := time.Now()
		rows, _, err := ledger.Report(t.Context(), usage.Query{From: now.Truncate(time.Hour), To: now.Add(time.Hour), Caller: key.ID, Limit: 10})
		return err == nil && len(rows) == 1 && rows[0].Requests == requests
	})
}

// withinAnHour lets a test begin where the hour doesn't end in the middle of it.
func withinAnHour(t *testing.T) {
	const longest = time.Minute // where there is little else to do, it is six seconds
	if left := untilNextHour(); left < longest {
		time.Sleep(left)
	}
	began := time.Now().Truncate(time.Hour)
	t.Cleanup(func() {
		if !time.Now().Truncate(time.Hour).Equal(began) {
			t.Errorf("the hour ended in the middle of the test, which says nothing then: it takes longer than %s", longest)
		}
	})
}

func untilNextHour() time.Duration {
	now := time.Now()
	return now.Truncate(time.Hour).Add(time.Hour).Sub(now)
}

// spend makes a key, and uses up its hour at all of sides at once.
func spend(t *testing.T, sides ...side) check.Key {
	t.Helper()
	key := sides[0].issue(t, token, fmt.Sprintf(`{"name":"busy","scopes":["agents:read","chat"],"rate_limit":%d}`, hourly))
	var mu sync.Mutex
	var left []int
	refused := 0
	work := make(chan side, asked)
	for i := range asked {
		work <- sides[i%len(sides)]
	}
	close(work)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for s := range work {
				status, remaining := s.ask(t, key, get("/agents", check.Want{}))
				mu.Lock()
				if status == 200 {
					left = append(left, remaining)
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	// Each of the admitted is told another number of requests left, down to none.
	slices.Sort(left)
	want := make([]int, hourly)
	for i := range want {
		want[i] = i
	}
	if !slices.Equal(left, want) || refused != asked-hourly {
		t.Errorf("%d of %d requests were admitted and %d refused, the admitted with %v requests left", len(left), asked, refused, left)
	}
	return key
}

// ask sends one request of a key with that limit, and checks what it is told of
// the hour.
func (s side) ask(t *testing.T, key check.Key, c check.Case) (status, remaining int) {
	t.Helper()
	before := untilNextHour()
	response, faults := s.run(t, key.Token, c)
	if response == nil {
		t.Error(faults)
		return 0, 0
	}
	after := untilNextHour()
	h := response.Header
	var seconds int
	if n, err := fmt.Sscanf(h.Get("RateLimit"), `"hour";r=%d;t=%d`, &remaining, &seconds); n != 2 || err != nil {
		t.Errorf("%s: RateLimit %q", s.name, h.Get("RateLimit"))
	}
	if want := fmt.Sprintf(`"hour";q=%d;w=3600`, hourly); h.Get("RateLimit-Policy") != want {
		t.Errorf("%s: RateLimit-Policy %q, want %s", s.name, h.Get("RateLimit-Policy"), want)
	}
	// Rounded up: who waits that long is in the next hour.
	if left := time.Duration(seconds) * time.Second; left < after || left > before+time.Second {
		t.Errorf("%s: %d s are left of an hour that ends in %s", s.name, seconds, before)
	}
	switch {
	case response.Status == 200 && h.Get("Retry-After") == "":
	case response.Status == 429 && h.Get("Retry-After") == strconv.Itoa(seconds) && remaining == 0 && strings.Contains(string(response.Body), `"error":"Rate limit exceeded"`):
	default:
		t.Errorf("%s: status %d, Retry-After %q with %q: %s", s.name, response.Status, h.Get("Retry-After"), h.Get("RateLimit"), response.Body)
	}
	if patient := h.Get("x-should-retry") == ""; patient != (response.Status == 200 || !strings.HasPrefix(c.Path, "/v1/") || seconds <= 60) {
		t.Errorf("%s: x-should-retry %q on %s for %d s", s.name, h.Get("x-should-retry"), c.Path, seconds)
	}
	return response.Status, remaining
}

// afterwards are requests of a key whose hour is used up.
var afterwards = []check.Case{
	get("/agents", check.Want{}), get("/whoami", check.Want{}), get("/agents/nobody", check.Want{}), get("/v1/models", check.Want{}), get("/api/agents", check.Want{}),
	send("DELETE", "/agents", "", check.Want{}),
	send("POST", "/chat", `{"message":"hello"}`, check.Want{}), send("POST", "/chat", `{"message":`, check.Want{}),
	send("POST", "/v1/chat/completions", `{"model":"assistant","messages":[{"role":"user","content":"hi"}]}`, check.Want{}),
	send("POST", "/workflow", `{"name":"assistant","elements":["hi"]}`, check.Want{}),
}

// spent asks for a key whose hour is used up, on every path.
func (s side) spent(t *testing.T, key check.Key) {
	t.Helper()
	for _, c := range afterwards {
		if status, _ := s.ask(t, key, c); status != 429 {
			t.Errorf("%s: %s %s is answered %d", s.name, c.Method, c.Path, status)
		}
	}
	s.as(t, key.Token, get("/keys", noScope)) // which no limit counts
	s.as(t, token, get("/whoami", fine))      // others go on
}

// reported reads what the report says of a key: what was admitted to the last,
// of the refused at most all (the last ones of a process may not be written yet).
func (s side) reported(t *testing.T, key check.Key, most int) {
	t.Helper()
	type row struct {
		Caller            string
		Requests, Refused int
	}
	rows := decode[struct{ Usage []row }](t, s.as(t, token, get("/usage?key="+key.ID, fine))).Usage
	if len(rows) != 1 || rows[0].Caller != key.ID || rows[0].Requests != hourly || rows[0].Refused < 1 || rows[0].Refused > most-hourly+1 {
		t.Errorf("%s: the report says %+v", s.name, rows)
	}
}

// TestP7LostAnswersAdmitNobodyTwice: where DynamoDB's answers are lost a request
// may count twice, and is never let in without being counted.
func TestP7LostAnswersAdmitNobodyTwice(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	s := d.side(t)
	withinAnHour(t)
	key := s.issue(t, token, `{"name":"unlucky","scopes":["agents:read"],"rate_limit":20}`)
	d.table.Inject(dynamofake.Lose().On("UpdateItem").Times(3))
	d.table.Inject(dynamofake.Blur().On("UpdateItem").Times(3))
	admitted := 0
	for range 30 {
		switch status := s.status(t, key.Token); status {
		case 200:
			admitted++
		case 429, 503:
		default:
			t.Errorf("status %d", status)
		}
	}
	if admitted > 20 || admitted < 10 {
		t.Errorf("%d were admitted of 20", admitted)
	}
}

// TestAnAdministratorIsNotLockedOut: administrative requests count against no
// limit, and pass a limit that is used up.
func TestAnAdministratorIsNotLockedOut(t *testing.T) {
	eachSide(t, func(t *testing.T, s side) {
		withinAnHour(t)
		admin := s.issue(t, token, `{"name":"admin","scopes":["admin"],"rate_limit":1}`)
		uncounted := check.Want{Status: 200, Header: map[string]string{"RateLimit": check.Absent}}
		for range 3 {
			s.as(t, admin.Token, get("/keys", uncounted))
		}
		s.as(t, admin.Token, get("/whoami", fine))
		s.as(t, admin.Token, get("/whoami", check.Want{Status: 429, Error: "Rate limit exceeded"}))
		s.as(t, admin.Token, get("/keys/"+admin.ID, uncounted))

		// P2: a limit that is taken away no longer holds.
		s.as(t, token, send("PATCH", "/keys/"+admin.ID, `{"rate_limit":0}`, fine))
		time.Sleep(bound)
		s.as(t, admin.Token, get("/whoami", check.Want{Status: 200, Header: map[string]string{"RateLimit": check.Absent}}))
	})
}
