package secret_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"postern/shared/secret"
)

// clock is a wall clock that moves when told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// version is one token of a vault.
type version struct {
	token string
	made  time.Time
}

// vault is a secret in memory that can be rotated and broken. Time passes on
// its clock where a real store would take it.
type vault struct {
	clock *clock

	mu       sync.Mutex
	versions []version // the last is current, the one before it previous
	faults   map[string]fault
	reads    []read
}

// fault changes the answer of one stage.
type fault func(text string, err error) (string, error)

// read is one call and its outcome. A token of "" is a call that failed.
type read struct {
	stage      string
	start, end time.Time
	version    version
	none       bool // ErrNoVersion
}

var errDown = errors.New("dial tcp: connection refused")

// Read implements secret.Store.
func (v *vault) Read(_ context.Context, stage string) (secret.Version, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	start := v.clock.Now()
	served, err := v.serve(stage)
	r := read{stage: stage, start: start, end: v.clock.Now(), none: errors.Is(err, secret.ErrNoVersion)}
	if err == nil && v.holds(served.token) {
		r.version = served
	}
	v.reads = append(v.reads, r)
	return secret.Version{Value: secret.New(served.token), CreatedAt: served.made}, err
}

func (v *vault) serve(stage string) (version, error) {
	back := map[string]int{secret.Current: 1, secret.Previous: 2}[stage]
	if back == 0 {
		return version{}, errors.New("no such stage: " + stage)
	}
	var found version
	err := secret.ErrNoVersion
	if len(v.versions) >= back {
		found, err = v.versions[len(v.versions)-back], nil
	}
	if broken := v.faults[stage]; broken != nil {
		found.token, err = broken(found.token, err)
	}
	return found, err
}

func (v *vault) holds(token string) bool {
	for _, known := range v.versions {
		if known.token == token {
			return true
		}
	}
	return false
}

func (v *vault) rotate(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.versions = append(v.versions, version{token, v.clock.Now()})
}

// disturb makes stages answer with f; without stages, both.
func (v *vault) disturb(f fault, stages ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(stages) == 0 {
		stages = []string{secret.Current, secret.Previous}
	}
	for _, s := range stages {
		v.faults[s] = f
	}
}

// down is a store that can't be reached.
func down(string, error) (string, error) { return "", errDown }

// hung is one that takes all the time a call is given.
func (v *vault) hung(string, error) (string, error) {
	v.clock.Add(time.Second)
	return "", context.DeadlineExceeded
}

// serving is one that holds something else.
func serving(text string) fault {
	return func(string, error) (string, error) { return text, nil }
}

// slow is one that takes nearly all the time a call is given.
func (v *vault) slow(text string, err error) (string, error) {
	v.clock.Add(time.Second - time.Nanosecond)
	return text, err
}

// flaky fails every other call, which the second try makes good.
func flaky() fault {
	odd := false
	return func(text string, err error) (string, error) {
		if odd = !odd; odd {
			return "", errDown
		}
		return text, err
	}
}

// rotatedMeanwhile rotates just after it answered, once.
func (v *vault) rotatedMeanwhile(token, stage string) fault {
	return func(text string, err error) (string, error) {
		v.faults[stage] = nil
		v.versions = append(v.versions, version{token, v.clock.Now()})
		return text, err
	}
}

// calls is how often the vault was read since this was last asked.
func (v *vault) calls() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.reads)
	v.reads = nil
	return n
}

var morning = time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)

// newVault holds the token "one", made two days ago.
func newVault() *vault {
	return &vault{
		clock:    &clock{now: morning},
		versions: []version{{"one", morning.Add(-48 * time.Hour)}},
		faults:   map[string]fault{},
	}
}
