package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/api"
	"postern/shared/auth"
)

// order is a body to decode: a field of every type that routes take.
type order struct {
	Message string   `json:"message"`
	Count   int      `json:"count,omitempty"`
	Stream  *bool    `json:"stream"`
	Tags    []string `json:"tags"`
	Inner   struct {
		Name string `json:"name"`
	} `json:"inner"`
}

// shop is a frame whose public POST decodes an order and answers with it.
func shop(t testing.TB) *site {
	return newSite(t, handling("health", func(w http.ResponseWriter, r *http.Request, _ auth.Caller) error {
		v, err := api.Decode[order](r)
		if err != nil {
			return err
		}
		return api.WriteJSON(w, http.StatusOK, v)
	}), func(cfg *api.Config) { cfg.Routes[0].Method = "POST" })
}

func TestDecode(t *testing.T) {
	t.Parallel()
	const known = `Known: "message", "count", "stream", "tags", "inner".`
	for _, row := range []struct {
		name        string
		contentType string // "": application/json; "-": none
		body        string
		status      int
		detail      string
	}{
		{"all fields", "", `{"message":"hi","count":2,"stream":true,"tags":["a"],"inner":{"name":"x"}}`, 200, ""},
		{"no fields", "", `{}`, 200, ""},
		{"white space around", "", " \r\n\t{} \n", 200, ""},
		{"a field that is null is absent", "", `{"message":null,"stream":null}`, 200, ""},
		{"a content type with its charset", "application/json; charset=utf-8", `{}`, 200, ""},
		{"a content type in capitals", "Application/JSON", `{}`, 200, ""},

		{"no content type (I14)", "-", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"what an HTML form sends unasked", "text/plain", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"a form", "application/x-www-form-urlencoded", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"a multipart form", "multipart/form-data; boundary=x", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"another JSON", "application/json-seq", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"a content type that only mentions it", "text/plain; application/json", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"two content types in one", "application/json, text/plain", `{}`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},
		{"a bad content type and a bad body", "text/plain", `{`, 415, "The body must be JSON: add -H 'Content-Type: application/json'."},

		{"nothing", "", "", 400, "The body is empty: send a JSON object."},
		{"white space", "", " \n", 400, "The body is empty: send a JSON object."},
		{"null", "", "null", 400, "The body must be a JSON object, not null."},
		{"an array", "", `[{"message":"hi"}]`, 400, "The body must be a JSON object, not an array."},
		{"a string", "", `"hi"`, 400, "The body must be a JSON object, not a string."},
		{"a number", "", `1`, 400, "The body must be a JSON object, not a number."},
		{"true", "", `true`, 400, "The body must be a JSON object, not true or false."},
		{"no JSON", "", `message=hi`, 400, "The body is not JSON: the fault is at byte 1."},
		{"a fault further on", "", `{"message":hi}`, 400, "The body is not JSON: the fault is at byte 12."},
		{"half an object", "", `{"message":"h`, 400, "The body ends in the middle of its JSON object."},
		{"a byte order mark", "", "\ufeff{}", 400, "The body is not JSON: the fault is at byte 1."},

		{"an unknown field", "", `{"mesage":"hi"}`, 400, `The field "mesage" is not known here. ` + known},
		{"an unknown field with quotes in it", "", `{"a\"b":1}`, 400, `The field "a\"b" is not known here. ` + known},
		{"an unknown field inside", "", `{"inner":{"nom":"x"}}`, 400, `The field "inner.nom" is not known here. Known: "name".`},
		{"a name in another case", "", `{"Message":"x"}`, 400, `The field "Message" is not known here. ` + known},
		{"a field that stands twice", "", `{"message":"x","message":"y"}`, 400, `The field "message" stands twice.`},
		{"an array for an object inside", "", `{"inner":[]}`, 400, `The field "inner" takes an object, not an array.`},
		{"an object inside that is null is absent", "", `{"inner":null}`, 200, ""},

		{"a number for a string", "", `{"message":1}`, 400, `The field "message" takes a string, not a number.`},
		{"an object for a string", "", `{"message":{}}`, 400, `The field "message" takes a string, not an object.`},
		{"a string for a number", "", `{"count":"2"}`, 400, `The field "count" takes a whole number, not a string.`},
		{"a fraction for a whole number", "", `{"count":1.5}`, 400, `The field "count" takes a whole number, not 1.5.`},
		{"a number beyond all", "", `{"count":1e400}`, 400, `The field "count" takes a whole number, not 1e400.`},
		{"a string for true or false", "", `{"stream":"true"}`, 400, `The field "stream" takes true or false, not a string.`},
		{"a string for an array", "", `{"tags":"a"}`, 400, `The field "tags" takes an array, not a string.`},
		{"an array for an object", "", `{"inner":[]}`, 400, `The field "inner" takes an object, not an array.`},
		{"a bool inside an object", "", `{"inner":{"name":true}}`, 400, `The field "inner.name" takes a string, not true or false.`},

		{"two objects", "", `{}{}`, 400, "There is more after the JSON object: send one object."},
		{"a word after the object", "", `{} x`, 400, "There is more after the JSON object: send one object."},
		{"a bracket after the object", "", `{}]`, 400, "There is more after the JSON object: send one object."},
		{"a null byte after the object", "", "{}\x00", 400, "There is more after the JSON object: send one object."},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := posting("/health", row.body)
			switch row.contentType {
			case "":
			case "-":
				r.Header.Del("Content-Type")
			default:
				r.Header.Set("Content-Type", row.contentType)
			}
			got := shop(t).send(r)
			if got.Status != row.status {
				t.Errorf("status %d, want %d: %s", got.Status, row.status, got.Body)
			}
			if row.status != 200 && got.problem(t).Detail != row.detail {
				t.Errorf("detail\n%q, want\n%q", got.problem(t).Detail, row.detail)
			}
		})
	}
}

func TestDecodedValue(t *testing.T) {
	t.Parallel()
	yes := true
	got, err := api.Decode[order](posting("/", `{"message":"h\u00e9 \ud83d\ude00","count":-2,"stream":true,"tags":[],"inner":{"name":"x"}}`))
	want := order{Message: "hé 😀", Count: -2, Stream: &yes, Tags: []string{}}
	want.Inner.Name = "x"
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
}

// heard is a field that reads JSON by itself.
type heard string

func (h *heard) UnmarshalJSON(b []byte) error {
	*h = heard(b)
	return nil
}

// A field that reads JSON by itself is told of null, wherever it stands, and of
// its absence not; a field of an embedded struct is one of the whole.
func TestDecodeTellsNull(t *testing.T) {
	t.Parallel()
	type part struct {
		Own heard `json:"own"`
	}
	type whole struct {
		part
		Other heard  `json:"other"`
		Plain string `json:"plain"`
		Far   *heard `json:"far"`
		Inner struct {
			Own heard `json:"own"`
		} `json:"inner"`
	}
	for body, want := range map[string]whole{
		`{}`: {},
		`{"own":null,"other":null,"plain":null,"far":null,"inner":null}`: {part: part{"null"}, Other: "null"},
		`{"own":1,"other":{},"plain":"x"}`:                               {part: part{"1"}, Other: "{}", Plain: "x"},
		`{"inner":{"own":null}}`:                                         {Inner: part{"null"}},
	} {
		got, err := api.Decode[whole](posting("/", body))
		if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(whole{})) {
			t.Errorf("%s: %v %+v", body, err, got)
		}
	}
	_, err := api.Decode[whole](posting("/", `{"part":{}}`))
	if p := api.ProblemOf(err, ""); p.Detail != `The field "part" is not known here. Known: "own", "other", "plain", "far", "inner".` {
		t.Error(p.Detail)
	}
	_, err = api.Decode[whole](posting("/", `{"":{}}`))
	if p := api.ProblemOf(err, ""); p.Status != 400 || strings.Contains(p.Detail, `Known: ""`) {
		t.Error(p)
	}
}

// A pointer tells whether a member is there, and is decoded as what it points to:
// as strictly, and with the same words.
func TestDecodePointers(t *testing.T) {
	t.Parallel()
	type hook struct {
		URL    string  `json:"url"`
		Secret *string `json:"secret"`
	}
	type body struct {
		ID   *string   `json:"id"`
		Hook *hook     `json:"hook"`
		Tags *[]string `json:"tags"`
		Far  **hook    `json:"far"`
	}
	near := func(h hook) *hook { return &h }
	for text, want := range map[string]body{
		`{}`: {},
		`{"id":null,"hook":null,"tags":null,"far":null}`: {},
		`{"id":"","hook":{},"tags":[]}`:                  {ID: new(""), Hook: &hook{}, Tags: &[]string{}},
		`{"id":"x","hook":{"url":"u","secret":null}}`:    {ID: new("x"), Hook: &hook{URL: "u"}},
		`{"hook":{"url":null,"secret":"s"}}`:             {Hook: &hook{Secret: new("s")}},
		`{"far":{"url":"u"}}`:                            {Far: new(near(hook{URL: "u"}))},
	} {
		got, err := api.Decode[body](posting("/", text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got)\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		`{"hook":{"x":1}}`:               `The field "hook.x" is not known here. Known: "url", "secret".`,
		`{"hook":{"URL":"u"}}`:           `The field "hook.URL" is not known here. Known: "url", "secret".`,
		`{"hook":{"url":"u","url":"v"}}`: `The field "hook.url" stands twice.`,
		`{"hook":{},"hook":null}`:        `The field "hook" stands twice.`,
		`{"hook":"u"}`:                   `The field "hook" takes an object, not a string.`,
		`{"hook":[]}`:                    `The field "hook" takes an object, not an array.`,
		`{"hook":{"secret":{}}}`:         `The field "hook.secret" takes a string, not an object.`,
		`{"id":7}`:                       `The field "id" takes a string, not a number.`,
		`{"id":{}}`:                      `The field "id" takes a string, not an object.`,
		`{"tags":"a"}`:                   `The field "tags" takes an array, not a string.`,
		`{"far":{"x":1}}`:                `The field "far.x" is not known here. Known: "url", "secret".`,
		`{"far":7}`:                      `The field "far" takes an object, not a number.`,
		`{"hook":{"postern_":"CANARY"}}`: `The field (a key?) is not known here. Known: "url", "secret".`,
	} {
		_, err := api.Decode[body](posting("/", text))
		if p := api.ProblemOf(err, ""); p.Status != 400 || p.Detail != want {
			t.Errorf("%s: %d %s, want %s", text, p.Status, p.Detail, want)
		}
	}
	// Others' formats have fields that we pass over, there as everywhere.
	got, err := api.DecodeForeign[body](posting("/", `{"x":1,"hook":{"x":1,"url":"u"}}`))
	if diff := cmp.Diff(body{Hook: &hook{URL: "u"}}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

// Bytes that are no UTF-8 are refused, and not passed on in the refusal.
func TestDecodeInvalidUTF8(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"{\"message\":\"a\xff\xc0b\"}", "{\"\xff\":1}"} {
		reply := shop(t).send(posting("/health", body))
		if reply.Status != 400 || !json.Valid([]byte(reply.Body)) || !strings.Contains(reply.Body, "not UTF-8") {
			t.Errorf("%d %q", reply.Status, reply.Body)
		}
	}
}

// What only headers say is refused before a byte of the body is read.
func TestDecodeRefusesByItsHeaders(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		set    func(*http.Request)
		status int
	}{
		{"a body announced above 1 MiB", func(r *http.Request) { r.ContentLength = api.MaxBody + 1 }, 413},
		{"two content types", func(r *http.Request) { r.Header.Add("Content-Type", "application/json") }, 415},
		{"a content coding", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 415},
	} {
		body := &endless{left: 100}
		r := httptest.NewRequest("POST", "/health", body)
		r.Header.Set("Content-Type", "application/json")
		row.set(r)
		if got := shop(t).send(r); got.Status != row.status || body.left != 100 {
			t.Errorf("%s: %d, want %d; %d of 100 bytes left", row.name, got.Status, row.status, body.left)
		}
	}
}

// I16: the limit is exact, wherever the byte too many is.
func TestBodySize(t *testing.T) {
	t.Parallel()
	sized := func(n int) string {
		return `{"message":"` + strings.Repeat("x", n-len(`{"message":""}`)) + `"}`
	}
	for _, row := range []struct {
		name   string
		body   string
		status int
	}{
		{"1 MiB", sized(api.MaxBody), 200},
		{"1 MiB and a byte", sized(api.MaxBody + 1), 413},
		{"1 MiB and white space after it", sized(api.MaxBody) + "\n", 413},
		{"an object and white space up to 1 MiB", "{}" + strings.Repeat(" ", api.MaxBody-2), 200},
		{"an object and white space beyond 1 MiB", "{}" + strings.Repeat(" ", api.MaxBody-1), 413},
		{"2 MiB of a field's name", `{"` + strings.Repeat("x", 2<<20), 413},
	} {
		got := shop(t).send(posting("/health", row.body))
		if got.Status != row.status {
			t.Errorf("%s: %d, want %d", row.name, got.Status, row.status)
		}
		if row.status == 413 && got.problem(t).Error != "Request too large" {
			t.Errorf("%s: %q", row.name, got.problem(t).Error)
		}
	}
}

// P15: nesting is bounded.
func TestDeepJSON(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"100,000 arrays":              strings.Repeat("[", 100_000),
		"100,000 objects":             strings.Repeat(`{"inner":`, 100_000),
		"arrays where a string is":    `{"message":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}",
		"objects in an unknown field": `{"x":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_001),
	} {
		if got := shop(t).send(posting("/health", body)); got.Status != 400 {
			t.Errorf("%s: %d, want 400", name, got.Status)
		}
	}
}

// I16, P15: of 100 MB no more is taken than a body may have, and a stranger's is
// not taken at all. It runs alone, so that the memory is its own.
func TestHugeBody(t *testing.T) {
	const huge = 100 << 20
	for _, row := range []struct {
		name   string
		start  string
		door   error
		status int
		read   int64
		memory uint64
	}{
		{"one string", `{"message":"`, nil, 413, api.MaxBody + 512, 8 << 20},
		{"no JSON", ``, nil, 413, api.MaxBody + 512, 8 << 20},
		{"nobody's", `{"message":"`, auth.Unknown, 401, 0, 1 << 20},
	} {
		s := newSite(t, behind(&guard{caller: auth.RootCaller(), err: row.door}),
			handling("chat", func(_ http.ResponseWriter, r *http.Request, _ auth.Caller) error {
				_, err := api.Decode[order](r)
				return err
			}))
		body := &endless{left: huge}
		r := httptest.NewRequest("POST", "/chat", io.MultiReader(strings.NewReader(row.start), body))
		r.Header.Set("Content-Type", "application/json")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := s.send(r)
		runtime.ReadMemStats(&after)
		if got.Status != row.status {
			t.Errorf("%s: %d, want %d", row.name, got.Status, row.status)
		}
		if read := huge - body.left; read > row.read {
			t.Errorf("%s: %d bytes were read, want %d at most", row.name, read, row.read)
		}
		if taken := after.TotalAlloc - before.TotalAlloc; taken > row.memory {
			t.Errorf("%s: %d bytes of memory were taken, want %d at most", row.name, taken, row.memory)
		}
	}
}

// endless is a body of x's.
type endless struct{ left int64 }

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, bytes.Repeat([]byte("x"), int(min(int64(len(p)), e.left, 4096))))
	e.left -= int64(n)
	return n, nil
}

func TestEncode(t *testing.T) {
	t.Parallel()
	body, err := api.Encode(map[string]string{"a": "<&>"})
	if err != nil || string(body) != "{\"a\":\"<&>\"}\n" {
		t.Errorf("%q, %v", body, err)
	}
	w := httptest.NewRecorder()
	if err := api.WriteEncoded(w, body); err != nil || w.Body.String() != string(body) || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%v %v", err, w)
	}
	// What can't be encoded has written nothing, so the answer can still be 500.
	got := newSite(t, handling("health", func(w http.ResponseWriter, _ *http.Request, _ auth.Caller) error {
		return api.WriteJSON(w, 200, func() {})
	})).ask("GET", "/health")
	if got.Status != 500 || got.problem(t).Error != "Internal error" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}

// P15: whatever the body, an answer; and what is accepted is an object of known
// fields.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{"message":"hi","count":2,"stream":true,"tags":["a"],"inner":{"name":"x"}}`, `{}`, `null`, `[]`, `{"x":1}`,
		`{"message":1}`, `{}{}`, `{"message":"`, "\xff", `{"count":1e9}`, `{"inner":{"name":null}}`, `{"MESSAGE":"x","message":"y"}`, ``,
	} {
		f.Add("application/json", seed)
	}
	f.Add("text/plain", `{}`)
	f.Add(`application/json; a="`, `{}`)
	s := shop(f)
	f.Fuzz(func(t *testing.T, contentType, body string) {
		r := posting("/health", body)
		r.Header.Set("Content-Type", contentType)
		got := s.send(r)
		s.log.Reset()
		switch got.Status {
		case 400, 413, 415:
			if p := got.problem(t); p.Detail == "" || p.Status != got.Status {
				t.Errorf("problem %+v", p)
			}
		case 200:
			var fields map[string]json.RawMessage
			if err := json.Unmarshal([]byte(body), &fields); err != nil || fields == nil {
				t.Errorf("accepted: %q (%v)", body, err)
			}
			for name := range fields {
				if !strings.Contains("message count stream tags inner", foldASCII(name)) {
					t.Errorf("accepted with the field %q", name)
				}
			}
		default:
			t.Errorf("status %d", got.Status)
		}
	})
}

// foldASCII is the caseless form of encoding/json's field names.
func foldASCII(s string) string {
	return strings.NewReplacer("ſ", "s", "K", "k").Replace(strings.ToLower(s))
}
