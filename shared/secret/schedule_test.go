package secret_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"postern/shared/secret"
)

var seed = flag.Uint64("seed", 0, "run TestRotatingSchedules with this seed alone")

// TestRotatingSchedules is P1 and P16 over random schedules of rotations,
// faults, waits and tokens. It predicts nothing; each answer must keep the
// promises, judged by what the vault really held and really told:
//
//	allow        the token was told by the vault less than 15 minutes ago; not
//	             after the grace of the version that replaced it, as last told;
//	             not after a complete telling without it
//	             and, where the vault was well for long enough, it was valid
//	             less than a cache time ago
//	wrong        the token is not valid, or is younger than 10 s
//	unavailable  the vault was unwell less than 10 s ago
//	either       not a valid token that was told less than 15 minutes ago
//
// A second kind of schedule steps the wall clock back as well; there ages
// have no meaning in truth, and only the promises about allowing are checked.
func TestRotatingSchedules(t *testing.T) {
	t.Parallel()
	const schedules, steps = 100, 400
	first, last := uint64(1), uint64(schedules)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	var totals outcomes
	for n := first; n <= last; n++ {
		w := newSchedule(t, n)
		for w.step = range steps {
			w.act()
			if t.Failed() {
				t.Fatalf("seed %d, step %d (repeat with -seed=%d); the last acts:\n%s", n, w.step, n, strings.Join(w.trace[max(0, len(w.trace)-25):], "\n"))
			}
		}
		totals.add(w.outcomes)
	}
	t.Logf("%+v", totals)
	// A schedule that never gets anywhere proves nothing.
	if *seed == 0 && (totals.Allowed < 5000 || totals.AllowedOld < 1000 || totals.AllowedStale < 200 || totals.Wrong < 5000 || totals.Unavailable < 1500) {
		t.Errorf("the schedules are out of balance: %+v", totals)
	}
}

// outcomes counts the answers. Old tokens are valid ones that are not current,
// stale ones no longer valid at all.
type outcomes struct{ Allowed, AllowedOld, AllowedStale, Wrong, Unavailable int }

func (o *outcomes) add(more outcomes) {
	o.Allowed += more.Allowed
	o.AllowedOld += more.AllowedOld
	o.AllowedStale += more.AllowedStale
	o.Wrong += more.Wrong
	o.Unavailable += more.Unavailable
}

type schedule struct {
	*testing.T
	*vault
	rnd        *rand.Rand
	cfg        secret.Config
	token      *secret.Rotating
	stepsBack  bool
	broken     bool
	lastUnwell time.Time // when the vault was last broken
	told       telling
	trace      []string
	step       int
	outcomes
}

// telling is what the vault told last.
type telling struct {
	at       map[string]time.Time // of each token, when the refresh that told of it last read AWSCURRENT
	current  version
	read     time.Time       // when AWSCURRENT was
	complete map[string]bool // the tokens of the last complete refresh; nil if the last one wasn't
}

func newSchedule(t *testing.T, n uint64) *schedule {
	rnd := rand.New(rand.NewPCG(n, 2026))
	v := newVault()
	w := &schedule{T: t, vault: v, rnd: rnd, stepsBack: n%4 == 0, told: telling{at: map[string]time.Time{}}}
	w.lastUnwell = morning.Add(-time.Hour)
	w.cfg = secret.Config{
		Store: v, Now: v.clock.Now,
		CacheFor: pick(rnd, 5*sec, 60*sec, 60*sec, 60*sec, 10*time.Minute),
		Grace:    pick(rnd, 0, 30*sec, 10*time.Minute, time.Hour, grace),
	}
	w.token = secret.NewRotating(w.cfg)
	w.log("cache %s, grace %s", w.cfg.CacheFor, w.cfg.Grace)
	return w
}

func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

func (w *schedule) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%4d %12s  ", w.step, w.clock.Now().Sub(morning))+fmt.Sprintf(format, args...))
}

func (w *schedule) act() {
	switch p := w.rnd.IntN(100); {
	case p < 60:
		w.verify(w.chooseToken())
	case p < 82:
		w.advance()
	case p < 86:
		w.rotate(w.nextToken())
		w.log("rotate")
	case p < 92:
		w.breakSomething()
	default:
		w.heal()
	}
}

func (w *schedule) advance() {
	now := w.clock.Now()
	boundaries := []time.Time{ // where something ends; the moment before, at and after it
		w.current().made.Add(w.cfg.Grace),
		w.told.at[w.current().token].Add(maxStale),
		w.told.at[w.current().token].Add(w.cfg.CacheFor),
		w.told.at[w.previous().token].Add(maxStale),
		now.Add(10 * sec),
	}
	d := time.Duration(w.rnd.Int64N(int64(pick(w.rnd, 2*sec, 12*sec, 12*sec, 2*time.Minute, 20*time.Minute))))
	if b := pick(w.rnd, boundaries...); w.rnd.IntN(2) == 0 && b.After(now) && b.Before(now.Add(2*time.Hour)) {
		d = b.Sub(now) + pick(w.rnd, -ns, 0, ns)
	}
	if w.stepsBack && w.rnd.IntN(8) == 0 {
		d = -pick(w.rnd, ns, sec, time.Minute, time.Hour)
	}
	w.clock.Add(d)
	w.log("wait %s", d)
}

func (w *schedule) breakSomething() {
	garbage := pick(w.rnd, "", "\n", "two words", `{"token":"token-1"}`, strings.Repeat("x", 513), "sha256:abc")
	stages := pick(w.rnd, []string{secret.Current}, []string{secret.Previous}, nil)
	name, f, unwell := "", fault(nil), true
	switch w.rnd.IntN(6) {
	case 0:
		name, f = "down", down
	case 1:
		name, f = "hung", w.hung
	case 2:
		name, f = fmt.Sprintf("garbled to %.12q", garbage), serving(garbage)
	case 3:
		name, f, unwell = "slow", w.slow, false
	case 4:
		name, f, unwell = "flaky", flaky(), false
	case 5:
		stages, unwell = []string{secret.Current}, false
		name, f = "rotated meanwhile", func(text string, err error) (string, error) {
			return w.rotatedMeanwhile(w.nextToken(), secret.Current)(text, err)
		}
	}
	w.touch()
	w.disturb(f, stages...)
	w.broken = w.broken || unwell
	w.log("break %v: %s", stages, name)
}

func (w *schedule) heal() {
	w.touch()
	w.disturb(nil)
	w.broken = false
	w.log("heal")
}

// touch notes that the vault is unwell now, if it is.
func (w *schedule) touch() {
	if w.broken {
		w.lastUnwell = w.clock.Now()
	}
}

// chooseToken prefers those whose answer is in doubt.
func (w *schedule) chooseToken() string {
	switch p := w.rnd.IntN(100); {
	case p < 35:
		return w.current().token
	case p < 65:
		return w.previous().token
	case p < 80:
		return pick(w.rnd, w.versions[max(0, len(w.versions)-5):]...).token
	}
	token := pick(w.rnd, w.versions...).token
	return pick(w.rnd, "", "garbage", token[:len(token)-1], token+"0", token+"\n", " "+token, strings.ToUpper(token),
		configuredDigest(token), strings.TrimPrefix(configuredDigest(token), "sha256:"), `{"token":"token-1"}`, "sha256:abc", "two words", "\n")
}

func (w *schedule) nextToken() string { return fmt.Sprintf("token-%d", len(w.versions)) }

func (w *schedule) current() version { return w.versions[len(w.versions)-1] }

func (w *schedule) previous() version { return w.versions[max(0, len(w.versions)-2)] }

// lifetime is when a token became valid and until when it is or was. A token
// that never was valid has none.
func (w *schedule) lifetime(token string) (from, until time.Time) {
	for i, v := range w.versions {
		if v.token != token {
			continue
		}
		from, until = v.made, v.made.Add(1000*grace)
		if i+1 < len(w.versions) {
			until = w.versions[i+1].made.Add(w.cfg.Grace)
		}
		if i+2 < len(w.versions) && w.versions[i+2].made.Before(until) {
			until = w.versions[i+2].made
		}
	}
	return from, until
}

// listen judges what the vault told since the last time.
func (w *schedule) listen() {
	for i, r := range w.reads {
		ok := r.version.token != ""
		if r.stage == secret.Current {
			if !ok {
				continue
			}
			w.told.current, w.told.read = r.version, r.end
			w.told.at[r.version.token] = r.end
			w.told.complete = nil
			if !r.end.Before(r.version.made.Add(w.cfg.Grace)) {
				w.told.complete = map[string]bool{r.version.token: true}
			}
			continue
		}
		if ok {
			w.told.at[r.version.token] = w.told.read
		}
		if ok || r.none {
			w.told.complete = map[string]bool{w.told.current.token: true, r.version.token: true}
		}
		if i == 0 {
			w.Errorf("AWSPREVIOUS is read without AWSCURRENT")
		}
	}
	w.reads = nil
}

func (w *schedule) verify(token string) {
	w.touch()
	start := w.clock.Now()
	ok, err := w.token.Match(context.Background(), secret.DigestOf(token))
	w.touch()
	end := w.clock.Now()
	w.listen()
	w.log("verify %.20q: %v, %v", token, ok, err)

	from, until := w.lifetime(token)
	told, ever := w.told.at[token]
	known := ever && end.Sub(told) < maxStale && (w.told.complete == nil || w.told.complete[token])
	valid := !start.Before(from) && end.Before(until) && !from.IsZero()
	if !ok && valid && known && !w.stepsBack {
		w.Errorf("%q is not allowed, though it is valid and was told %s ago", token, end.Sub(told))
	}
	switch {
	case ok:
		w.Allowed++
		w.checkAllowed(token, end, from, until)
		if err != nil {
			w.Errorf("%q is allowed with an error", token)
		}
	case err != nil:
		w.Unavailable++
		if !w.stepsBack && end.Sub(w.lastUnwell) > 10*sec {
			w.Errorf("%q is unavailable, though the vault has been well for %s", token, end.Sub(w.lastUnwell))
		}
	default:
		w.Wrong++
		if !w.stepsBack && valid && start.Sub(from) >= 10*sec {
			w.Errorf("%q is called wrong, though it has been valid for %s", token, start.Sub(from))
		}
	}
}

func (w *schedule) checkAllowed(token string, end, from, until time.Time) {
	told, ever := w.told.at[token]
	if from.IsZero() || !ever {
		w.Errorf("%q is allowed, and the vault never told of it", token)
		return
	}
	if age := end.Sub(told); age < 0 || age >= maxStale {
		w.Errorf("%q is allowed %s after it was told", token, age)
	}
	if w.told.complete != nil && !w.told.complete[token] {
		w.Errorf("%q is allowed, though the last complete refresh did not tell of it", token)
	}
	if current := w.told.current; token != current.token {
		if graceEnd := current.made.Add(w.cfg.Grace); !end.Before(graceEnd) {
			w.Errorf("%q is allowed %s after the grace", token, end.Sub(graceEnd))
		}
	}
	if token != w.current().token && end.Before(until) {
		w.AllowedOld++
	}
	stale := end.Sub(until)
	if stale >= 0 {
		w.AllowedStale++
	}
	if w.stepsBack {
		return
	}
	if stale >= maxStale {
		w.Errorf("%q is allowed %s after it ended", token, stale)
	}
	well := end.Sub(w.lastUnwell)
	if bound := w.cfg.CacheFor; stale >= bound && well > max(bound, 10*sec) {
		w.Errorf("%q is allowed %s after it ended, though the vault has been well for %s", token, stale, well)
	}
}
