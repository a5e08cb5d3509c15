package bedrockfake_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"

	"postern/tests/bedrockfake"
)

const (
	whole  = "/model/amazon.nova-lite-v1%3A0/converse"
	path   = "/model/amazon.nova-lite-v1%3A0/converse-stream"
	signed = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20260301/eu-west-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0000000000000000000000000000000000000000000000000000000000000000"
	least  = `{"messages":[{"role":"user","content":[{"text":"x"}]}]}`
)

func start(t *testing.T) *bedrockfake.Server {
	s := bedrockfake.Start()
	t.Cleanup(s.Close)
	return s
}

// post returns the code of a refusal, or "".
func post(t *testing.T, s *bedrockfake.Server, path, signature, body string) (code string, answer []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", signature)
	r.Header.Set("X-Amz-Date", "20260301T120000Z")
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	code, _, _ = strings.Cut(resp.Header.Get("X-Amzn-ErrorType"), ":")
	return code, answer
}

func TestAnAnswerIsAnEventStream(t *testing.T) {
	t.Parallel()
	s := start(t)
	code, answer := post(t, s, path, signed, least)
	if code != "" {
		t.Fatalf("refused: %s %s", code, answer)
	}
	var kinds []string
	for body := bytes.NewReader(answer); ; {
		m, err := eventstream.NewDecoder().Decode(body, nil) // checks both CRCs
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Headers.Get(":message-type").String(); got != "event" {
			t.Errorf("a message is %s, want an event", got)
		}
		kinds = append(kinds, m.Headers.Get(":event-type").String())
	}
	want := []string{"messageStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata"}
	if !slices.Equal(kinds, want) {
		t.Errorf("the events are %v, want %v", kinds, want)
	}
	if calls := s.Calls(); len(calls) != 1 || calls[0].Model != "amazon.nova-lite-v1:0" || calls[0].Path != path || string(calls[0].Body) != least {
		t.Errorf("the call was recorded as %+v", calls)
	}
}

func TestAWholeAnswerIsJSON(t *testing.T) {
	t.Parallel()
	s := start(t)
	code, answer := post(t, s, whole, signed, least)
	const want = `{"metrics":{"latencyMs":1},"output":{"message":{"content":[{"text":"Hello."}],"role":"assistant"}},` +
		`"stopReason":"end_turn","usage":{"inputTokens":10,"outputTokens":2,"totalTokens":12}}`
	if code != "" || string(answer) != want {
		t.Errorf("answered %q %s, want %s", code, answer, want)
	}
	if calls := s.Calls(); len(calls) != 1 || calls[0].Operation != "converse" || calls[0].Model != "amazon.nova-lite-v1:0" {
		t.Errorf("the call was recorded as %+v", calls)
	}
	if code, _ := post(t, s, whole, "", least); code != "ValidationException" || len(s.Violations()) != 1 {
		t.Errorf("unsigned it is answered %q, with the violations %q", code, s.Violations())
	}
}

func TestStreamingAloneIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.RefuseStreaming("no streaming")
	s.Inject(bedrockfake.Fail(429, "ThrottlingException", "").Times(1))
	var got []string
	for _, path := range []string{path, whole, path, whole} {
		code, _ := post(t, s, path, signed, least)
		got = append(got, code)
	}
	if want := []string{"ValidationException", "ThrottlingException", "ValidationException", ""}; !slices.Equal(got, want) {
		t.Errorf("the answers are %q, want %q", got, want)
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("what is refused so breaks no rule, but there is %q", v)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	const (
		user   = `{"role":"user","content":[{"text":"x"}]}`
		reply  = `{"role":"assistant","content":[{"text":"x"}]}`
		call   = `{"role":"assistant","content":[{"toolUse":{"toolUseId":"t1","name":"n","input":{}}}]}`
		result = `{"role":"user","content":[{"toolResult":{"toolUseId":"t1","content":[{"text":"x"}]}}]}`
		tools  = `,"toolConfig":{"tools":[{"toolSpec":{"name":"n","inputSchema":{"json":{"type":"object"}}}}]}`
	)
	messages := func(all ...string) string { return `{"messages":[` + strings.Join(all, ",") }
	for _, test := range []struct{ name, signature, body, broken string }{
		{"a conversation", signed, messages(user, reply, user) + `]}`, ""},
		{"a tool call and its result", signed, messages(user, call, result) + `]` + tools + `}`, ""},
		{"no signature", "", least, "SigV4"},
		{"another service's signature", strings.Replace(signed, "/bedrock/", "/s3/", 1), least, "SigV4"},
		{"no JSON", signed, `{`, "no request"},
		{"a field that isn't Converse's", signed, `{"model":"x"}`, "no request"},
		{"no message", signed, `{"messages":[]}`, "must have a message"},
		{"an assistant first", signed, messages(reply) + `]}`, "start with a user"},
		{"two of one role", signed, messages(user, user) + `]}`, "alternate"},
		{"a blank text", signed, messages(`{"role":"user","content":[{"text":" "}]}`) + `]}`, "blank"},
		{"a blank system prompt", signed, messages(user) + `],"system":[{"text":""}]}`, "blank"},
		{"no content", signed, messages(`{"role":"user","content":[]}`) + `]}`, "empty"},
		{"a tool call without tools", signed, messages(user, call, result) + `]}`, "toolConfig must be defined"},
		{"a tool call without a result", signed, messages(user, call, user) + `]` + tools + `}`, "without results"},
		{"a result without a tool call", signed, messages(user, reply, result) + `]` + tools + `}`, "no tool call"},
		{"a blank result", signed, messages(user, call, strings.Replace(result, `"text":"x"`, `"text":""`, 1)) + `]` + tools + `}`, "empty or blank"},
		{"a schema of another type", signed, messages(user) + `]` + strings.Replace(tools, "object", "array", 1) + `}`, "must be object"},
		{"a tool without a name", signed, messages(user) + `]` + strings.Replace(tools, `"name":"n"`, `"name":""`, 1) + `}`, "empty name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			code, answer := post(t, s, path, test.signature, test.body)
			violations := strings.Join(s.Violations(), "\n")
			switch {
			case test.broken == "" && (code != "" || violations != ""):
				t.Errorf("refused: %s %s", code, answer)
			case test.broken != "" && (code != "ValidationException" || !strings.Contains(violations, test.broken)):
				t.Errorf("answered %q, violations %q; want ValidationException: … %s", code, violations, test.broken)
			}
		})
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, path := range []string{"/", "/model/x/invoke", "/model/x/y/converse-stream", "/model/x/y/converse"} {
		if code, _ := post(t, s, path, signed, least); code != "UnknownOperationException" {
			t.Errorf("%s is answered %q, want UnknownOperationException", path, code)
		}
	}
}

func TestFaultsComeInTheirOrderAndEnd(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Inject(bedrockfake.Fail(429, "ThrottlingException", "").Times(2))
	s.Inject(bedrockfake.Fail(503, "ServiceUnavailableException", ""))
	var got []string
	for range 4 {
		code, _ := post(t, s, path, signed, least)
		got = append(got, code)
	}
	s.Heal()
	code, _ := post(t, s, path, signed, least)
	got = append(got, code)
	want := []string{"ThrottlingException", "ThrottlingException", "ServiceUnavailableException", "ServiceUnavailableException", ""}
	if !slices.Equal(got, want) {
		t.Errorf("the answers are %q, want %q", got, want)
	}
}
