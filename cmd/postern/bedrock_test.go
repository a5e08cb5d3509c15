package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"postern/tests/bedrockfake"
)

const (
	bedrockAgent = "agents: {judge: {role: Judge, llm: bedrock/amazon.nova-lite-v1:0}}"

	// A secret key: what shows of it anywhere has leaked (P4).
	awsSecret = "canary/SecretAccessKey/0123456789abcdefg"

	profiles = `[default]
region = eu-west-1
[profile work]
region = eu-central-1
defaults_mode = auto
[profile nowhere]
[profile tool]
region = eu-north-1
credential_process = sh credentials.sh
[profile broken]
role_arn = arn:aws:iam::123456789012:role/x
source_profile = nobody
`
	profileKeys = `[default]
aws_access_key_id = AKIADEFAULT
aws_secret_access_key = ` + awsSecret + `
[work]
aws_access_key_id = AKIAWORK
aws_secret_access_key = ` + awsSecret + `
aws_session_token = session-of-work
[half]
aws_secret_access_key = ` + awsSecret + `
`
	// counted leaves a line each time that it is asked.
	counted = `echo asked >> asked
echo '{"Version":1,"AccessKeyId":"AKIATOOL","SecretAccessKey":"` + awsSecret + `"}'
`
)

// awsHome is a home folder with ~/.aws, and what else an environment takes.
func awsHome(t *testing.T) (home string, environment []string) {
	t.Helper()
	home = t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config": profiles, "credentials": profileKeys} {
		if err := os.WriteFile(filepath.Join(home, ".aws", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return home, []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "API_TOKEN=0123456789abcdef"}
}

func chatStatus(t *testing.T, s *server) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/chat", strings.NewReader(`{"message":"m"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {"0123456789abcdef"}}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

// Contract §6 and issue "real models": on one machine Bedrock's credentials are
// the environment's or a profile's, in the order that every AWS SDK has.
func TestBedrockSignsAsTheEnvironmentOrAProfile(t *testing.T) {
	t.Parallel()
	keys := []string{"AWS_ACCESS_KEY_ID=AKIAENVIRONMENT", "AWS_SECRET_ACCESS_KEY=" + awsSecret}
	for _, row := range []struct {
		name        string
		environment []string
		key, region string
		session     string
	}{
		{"the default profile, unnamed", nil, "AKIADEFAULT", "eu-west-1", ""},
		{"a named profile", []string{"AWS_PROFILE=work"}, "AKIAWORK", "eu-central-1", "session-of-work"},
		{"a profile's key in the environment's region", []string{"AWS_PROFILE=work", "AWS_REGION=us-west-2"}, "AKIAWORK", "us-west-2", "session-of-work"},
		{"a region by its other name", []string{"AWS_PROFILE=work", "AWS_DEFAULT_REGION=us-west-2"}, "AKIAWORK", "us-west-2", "session-of-work"},
		{"the environment beats the default profile", append(keys, "AWS_REGION=us-west-2"), "AKIAENVIRONMENT", "us-west-2", ""},
		{"the environment's key beats a named profile's", append(keys, "AWS_PROFILE=work"), "AKIAENVIRONMENT", "eu-central-1", ""},
		{"an empty name is none", []string{"AWS_PROFILE=", "AWS_REGION="}, "AKIADEFAULT", "eu-west-1", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake := bedrockfake.Start()
			defer fake.Close()
			_, environment := awsHome(t)
			environment = append(environment, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME="+fake.URL)
			s := startFor(t, map[string]string{"agents.yaml": bedrockAgent}, append(environment, row.environment...), "postern", "run")
			if n := len(fake.Calls()); n != 0 {
				t.Errorf("the start makes %d calls", n)
			}
			if status := chatStatus(t, s); status != 200 {
				t.Fatalf("status %d\n%s", status, &s.stderr)
			}
			header := fake.Calls()[0].Header
			day := header.Get("X-Amz-Date")[:len("20060102")] // which the fake has seen to be there
			scope := "Credential=" + row.key + "/" + day + "/" + row.region + "/bedrock/"
			if got := header.Get("Authorization"); !strings.Contains(got, scope) {
				t.Errorf("signed as %s, want %s", got, scope)
			}
			if got := header.Get("X-Amz-Security-Token"); got != row.session {
				t.Errorf("the session is %q, want %q", got, row.session)
			}
			if v := fake.Violations(); len(v) > 0 || strings.Contains(s.stderr.String(), awsSecret) {
				t.Errorf("%v\n%s", v, &s.stderr)
			}
		})
	}
}

// A profile in other files, whose credentials a program gives: it is asked at
// the first chat, not at the start, and once.
func TestBedrockAsksAProfilesProgramOnce(t *testing.T) {
	t.Parallel()
	fake := bedrockfake.Start()
	defer fake.Close()
	home, environment := awsHome(t)
	if err := os.Rename(home+"/.aws", home+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	s := startFor(t, map[string]string{"agents.yaml": bedrockAgent, "credentials.sh": counted}, append(environment, "AWS_PROFILE=tool",
		"AWS_CONFIG_FILE="+home+"/elsewhere/config", "AWS_SHARED_CREDENTIALS_FILE="+home+"/elsewhere/credentials",
		"AWS_ENDPOINT_URL_BEDROCK_RUNTIME="+fake.URL), "postern", "run")
	asked := func() string {
		text, _ := os.ReadFile(s.cmd.Dir + "/asked")
		return string(text)
	}
	if asked() != "" {
		t.Error("it is asked at the start")
	}
	for range 2 {
		if status := chatStatus(t, s); status != 200 {
			t.Fatalf("status %d\n%s", status, &s.stderr)
		}
	}
	if got := fake.Calls()[1].Header.Get("Authorization"); !strings.Contains(got, "=AKIATOOL/") || !strings.Contains(got, "/eu-north-1/") {
		t.Errorf("signed as %s", got)
	}
	if asked() != "asked\n" {
		t.Errorf("it is asked %q", asked())
	}
}

// P18: an agent that can't have its model stops the start, which says the cure.
func TestBedrockRefusesToStart(t *testing.T) {
	t.Parallel()
	const unreadable = "postern: AWS_PROFILE: this profile, or else the default one, can't be read from ~/.aws; `aws sts get-caller-identity` tells why\n"
	const absent = "postern: AWS_PROFILE: there is no profile \"nobody\" in ~/.aws/config or ~/.aws/credentials; `aws configure list-profiles` lists those there are\n"
	for _, row := range []struct{ name, environment, want string }{
		{"a profile that isn't there", "AWS_PROFILE=nobody", absent},
		{"a profile that needs one that isn't there", "AWS_PROFILE=broken", absent},
		{"half a credential", "AWS_PROFILE=half", unreadable},
		{"a profile without a region", "AWS_PROFILE=nowhere", "postern: AWS_REGION: it is not set, and no profile has a region; name one that has the model, for example eu-west-1\n"},
		{"nothing at all", "HOME=/nonexistent", "postern: AWS_REGION: it is not set, and no profile has a region; name one that has the model, for example eu-west-1\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			_, environment := awsHome(t)
			dir := t.TempDir()
			if err := os.WriteFile(dir+"/agents.yaml", []byte(bedrockAgent), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := start(dir, append(environment, "API_PORT=0", row.environment), "postern", "run")
			if err == nil {
				s.kill()
				t.Fatal("it starts")
			}
			if _, told, _ := strings.Cut(err.Error(), ":\n"); told != row.want {
				t.Errorf("it says %q, want %q", told, row.want)
			}
		})
	}
}

// What is wrong with AWS is no matter to agents of other models.
func TestBedrockIsOpenedForItsAgentsOnly(t *testing.T) {
	t.Parallel()
	_, environment := awsHome(t)
	s := startFor(t, map[string]string{"agents.yaml": oneAgent}, append(environment, "AWS_PROFILE=nobody"), "postern", "run")
	if status := chatStatus(t, s); status != 200 {
		t.Errorf("status %d", status)
	}
}

// The instance metadata, which hangs where there is none, is not asked at the
// start, and at a chat for no longer than that may take: left alone, the SDK asks
// it four times in four seconds, and then says that there is none, which is a 503.
func TestBedrockStartsWithoutInstanceMetadata(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var asked atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close() // at the end: it never answers
			asked.Add(1)
		}
	}()
	home, environment := awsHome(t)
	if err := os.WriteFile(home+"/.aws/credentials", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := startFor(t, map[string]string{"agents.yaml": bedrockAgent}, append(environment, "AWS_PROFILE=work", "CHAT_TIMEOUT=1s",
		"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://"+listener.Addr().String()), "postern", "run")
	if n := asked.Load(); n != 0 {
		t.Errorf("the start asks it %d times", n)
	}
	if status := chatStatus(t, s); status != 504 {
		t.Errorf("status %d", status)
	}
	if n := asked.Load(); n < 1 || n > 2 {
		t.Errorf("a chat of one second asks it %d times", n)
	}
}
