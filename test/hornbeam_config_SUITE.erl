%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_config_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([defaults_are_those_of_the_reference/1]).
-export([every_option_is_checked/1]).
-export([accepted_forms/1]).
-export([refused_values/1]).
-export([edges/1]).
-export([text_forms/1]).
-export([application_names/1]).
-export([options_that_are_no_map/1]).
-export([all_errors_at_once/1]).
-export([unknown_keys/1]).
-export([unsupported_options/1]).
-export([websocket_options/1]).
-export([rules_across_options/1]).
-export([environment_stands_between/1]).
-export([unknown_keys_of_the_environment/1]).
-export([secrets_are_masked/1]).
-export([python_from_path/1]).
-export([python_by_path/1]).
-export([python_of_a_venv/1]).

all() ->
    [
        defaults_are_those_of_the_reference,
        every_option_is_checked,
        accepted_forms,
        refused_values,
        edges,
        text_forms,
        application_names,
        options_that_are_no_map,
        all_errors_at_once,
        unknown_keys,
        unsupported_options,
        websocket_options,
        rules_across_options,
        environment_stands_between,
        unknown_keys_of_the_environment,
        secrets_are_masked,
        python_from_path,
        python_by_path,
        python_of_a_venv
    ].

init_per_testcase(_, Config) ->
    [{saved_env, application:get_all_env(hornbeam)} | Config].

end_per_testcase(_, Config) ->
    Saved = proplists:get_value(saved_env, Config),
    [application:unset_env(hornbeam, Key) || {Key, _} <- application:get_all_env(hornbeam)],
    application:set_env([{hornbeam, Saved}]).

%% The defaults that users rely on.
defaults_are_those_of_the_reference(_) ->
    {ok, Config} = hornbeam_config:validate("app:app", #{}),
    ?assertMatch(
        #{
            app := <<"app:app">>,
            bind := [#{type := tcp, ip := {127, 0, 0, 1}, port := 8000}],
            worker_class := auto,
            threads := 8,
            loop := auto,
            python := <<"python3">>,
            pythonpath := [<<".">>],
            lifespan := auto,
            lifespan_timeout := 30000,
            root_path := <<>>,
            timeout := 30000,
            keepalive := 5000,
            header_timeout := 10000,
            body_timeout := 30000,
            shutdown_timeout := 30000,
            max_body := infinity,
            max_request_line_size := 8190,
            max_header_size := 16384,
            max_headers := 100,
            max_connections := 16384,
            max_concurrency := auto,
            max_queue := 1024,
            queue_timeout := 5000,
            max_requests := infinity,
            heartbeat := 250,
            stall_timeout := 60000,
            window := 65536,
            http_version := ['HTTP/1.1', 'HTTP/2'],
            server_header := <<"hornbeam">>,
            date_header := true
        },
        Config
    ),
    ?assertEqual(cores(), map_get(workers, Config)).

%% A configuration has every option, and none of them takes just anything.
every_option_is_checked(_) ->
    {ok, Config} = hornbeam_config:validate("app:app", #{}),
    Keys = maps:keys(hornbeam_config:defaults()),
    ?assertEqual(Keys, maps:keys(maps:remove(app, Config))),
    [
        ?assertMatch({Key, {error, _}}, {Key, hornbeam_option:check(Key, self())})
     || Key <- Keys
    ].

%% What users write, beside what becomes of it.
accepted_forms(_) ->
    Fun = fun() -> ok end,
    Files = #{keyfile => undefined, password => undefined},
    {ok, Port80} = hornbeam_bind:read(<<"127.0.0.1:80">>),
    Forms = [
        {worker_class, wsgi, wsgi},
        {loop, trio, trio},
        {lifespan, on, on},
        {retry, false, false},
        {venv, undefined, undefined},
        {chdir, "/srv", <<"/srv">>},
        {root_path, "/api/", <<"/api">>},
        {root_path, "/", <<>>},
        {pythonpath, ["src", <<"lib">>], [<<"src">>, <<"lib">>]},
        {pythonpath, "src", [<<"src">>]},
        {pythonpath, [], []},
        {env, #{"A" => <<"b=c">>, <<"D">> => ""}, #{<<"A">> => <<"b=c">>, <<"D">> => <<>>}},
        {env, [{"A", "1"}, {"B", false}], #{<<"A">> => <<"1">>, <<"B">> => false}},
        {http_version, ['HTTP/2', 'HTTP/1.1'], ['HTTP/1.1', 'HTTP/2']},
        {http_version, ['HTTP/2'], ['HTTP/2']},
        {server_header, false, <<>>},
        {server_header, "me", <<"me">>},
        {max_body, 0, 0},
        {verify, verify_peer, verify_peer},
        {sni, [{"A.example", #{certfile => "x"}}, {<<"*.b">>, #{certfile => "y", keyfile => "z"}}], [
            {<<"a.example">>, Files#{certfile => <<"x">>}},
            {<<"*.b">>, Files#{certfile => <<"y">>, keyfile => <<"z">>}}
        ]},
        {reload, false, false},
        {reload, true, #{dirs => undefined, include => [], exclude => []}},
        {reload, #{dirs => "lib", exclude => ["tests/*"]},
         #{dirs => [<<"lib">>], include => [], exclude => [<<"tests/*">>]}},
        {reload, #{include => "*.html"},
         #{dirs => undefined, include => [<<"*.html">>], exclude => []}},
        {ssl_redirect, off, off},
        {ssl_redirect, "127.0.0.1:80", {[Port80], bound}},
        {ssl_redirect, {["127.0.0.1:80"], 8443}, {[Port80], 8443}},
        {socket_mode, 8#660, 8#660},
        {socket_mode, undefined, undefined},
        {proxy_headers, off, off},
        {proxy_headers, ["10.0.0.0/8", "::1"], [
            {{10, 0, 0, 0}, 8}, {{0, 0, 0, 0, 0, 0, 0, 1}, 128}
        ]},
        {proxy_headers, "127.0.0.1", [{{127, 0, 0, 1}, 32}]},
        {proxy_headers, unix, [unix]},
        {proxy_headers, "unix", [unix]},
        {proxy_headers, [unix, "::ffff:10.0.0.0/104", <<"unix">>], [unix, {{10, 0, 0, 0}, 8}, unix]},
        {access_log, json, json},
        {access_log, {common, "/var/log/a"}, {common, <<"/var/log/a">>}},
        {hooks, #{on_error => Fun}, #{on_error => Fun}},
        {status_path, "/status", <<"/status">>},
        {metrics_path, off, off},
        {routes, [{'_', []}], [{'_', []}]}
    ],
    [
        ?assertEqual({Key, {ok, Checked}}, {Key, hornbeam_option:check(Key, Given)})
     || {Key, Given, Checked} <- Forms
    ].

%% What looks right and is not.
refused_values(_) ->
    Values = [
        {bind, []},
        {bind, ""},
        {bind, 8000},
        {bind, ["127.0.0.1:1", 2]},
        {bind, ["127.0.0.1:1" | "127.0.0.1:2"]},
        {bind, ["127.0.0.1:1", <<"127.0.0.1:1">>]},
        {bind, ["unix:/a", "unix:/a"]},
        {loop, "asyncio"},
        {retry, 1},
        {venv, ""},
        {python, ""},
        {python, "a\0b"},
        {python, <<255>>},
        {chdir, off},
        {root_path, "api"},
        {pythonpath, [""]},
        {pythonpath, [src]},
        {pythonpath, src},
        {env, [{"A"}]},
        {env, [{"A", 1}]},
        {env, #{"A=" => "b"}},
        {env, #{"" => "b"}},
        {env, #{a => "b"}},
        {env, [{"A", "b"} | x]},
        {http_version, []},
        {http_version, 'HTTP/2'},
        {http_version, ['HTTP/3']},
        {server_header, "a\r\nb: c"},
        {server_header, true},
        {sni, [{a, #{}}]},
        {sni, [a]},
        {sni, [{"a", #{}}]},
        {sni, [{"a", #{certfile => 1}}]},
        {sni, [{"a", #{certfile => "x", certifle => "y"}}]},
        {sni, [{"a.*", #{certfile => "x"}}]},
        {sni, [{"*", #{certfile => "x"}}]},
        {sni, [{"a b", #{certfile => "x"}}]},
        {sni, [{"a", #{certfile => "x"}}, {"A", #{certfile => "y"}}]},
        {reload, on},
        {reload, ["lib"]},
        {reload, #{dirs => []}},
        {reload, #{dirs => [lib]}},
        {reload, #{include => [""]}},
        {reload, #{exclude => py}},
        {reload, #{folders => ["lib"]}},
        {ssl_redirect, true},
        {ssl_redirect, "80"},
        {ssl_redirect, {"127.0.0.1:80", 0}},
        {ssl_redirect, {"127.0.0.1:80", 65536}},
        {ssl_redirect, {}},
        {socket_mode, 8#1000},
        {socket_mode, -1},
        {socket_mode, "660"},
        {proxy_headers, []},
        {proxy_headers, ["10.0.0.0/33"]},
        {proxy_headers, ["::1/129"]},
        {proxy_headers, ["::1/-1"]},
        {proxy_headers, ["10.0.0.0/"]},
        {proxy_headers, ["example.org"]},
        {proxy_headers, ["010.0.0.1"]},
        {proxy_headers, ["fe80::1%eth0"]},
        {proxy_headers, on},
        {proxy_headers, [unix | "::1"]},
        {access_log, {json, ""}},
        {access_log, {xml, "a"}},
        {hooks, #{on_what => fun() -> ok end}},
        {hooks, #{on_error => 1}},
        {status_path, "status"},
        {status_path, "/a?b"},
        {routes, [a | b]}
    ],
    [
        ?assertMatch({_, {error, _}}, {{Key, Value}, hornbeam_option:check(Key, Value)})
     || {Key, Value} <- Values
    ].

%% The smallest and largest of each number pass, what is beyond does not.
edges(_) ->
    MaxTime = 16#FFFFFFFF,
    Times = [{Key, 1, MaxTime} || Key <- times()],
    Ranges = [
        {workers, 1, 1024},
        {threads, 1, 1024},
        {max_request_line_size, 64, 1048576},
        {max_header_size, 64, 1048576},
        {max_headers, 1, 10000},
        {max_concurrency, 1, 1000000},
        {max_queue, 0, 1000000},
        {max_requests_jitter, 0, 1000000000},
        {heartbeat, 10, 60000},
        {window, 4096, 16777216}
        | Times
    ],
    [check_edges(Range) || Range <- Ranges],
    Open = [{max_body, 0}, {max_connections, 1}, {max_requests, 1}, {max_memory, 1048576}],
    [
        begin
            ?assertEqual({ok, infinity}, hornbeam_option:check(Key, infinity)),
            ?assertEqual({ok, Min}, hornbeam_option:check(Key, Min)),
            ?assertMatch({error, _}, hornbeam_option:check(Key, Min - 1))
        end
     || {Key, Min} <- [{websocket_max_frame_size, 1} | Open]
    ],
    ?assertMatch({error, _}, hornbeam_option:check(shutdown_timeout, infinity)),
    Unbounded = times() -- [shutdown_timeout],
    [?assertEqual({ok, infinity}, hornbeam_option:check(Key, infinity)) || Key <- Unbounded].

%% Strings and UTF-8 binaries are one, also beyond Latin-1.
text_forms(_) ->
    [
        ?assertEqual({ok, <<"/srv/čaj"/utf8>>}, hornbeam_option:check(chdir, Text))
     || Text <- ["/srv/čaj", <<"/srv/čaj"/utf8>>]
    ],
    ?assertMatch({error, _}, hornbeam_option:check(chdir, [$/, 16#D800])),
    ?assertMatch({error, _}, hornbeam_option:check(chdir, ["/srv" | $/])).

%% Module and attribute may be dotted, and the attribute may be left out.
application_names(_) ->
    Good = ["app", "app:app", "pkg.mod:factory.app", "_a1:_b2", "größe:app", <<"app:app">>],
    [?assertMatch({ok, #{app := _}}, hornbeam_config:validate(App, #{})) || App <- Good],
    Bad = ["", ":", "app:", ":app", "a:b:c", "a b", "1a:b", "a.:b", "a/b", "app:app\n", app, #{}],
    [
        ?assertMatch(
            {_, {error, {invalid_options, #{errors := [#{key := app, value := App}]}}}},
            {App, hornbeam_config:validate(App, #{})}
        )
     || App <- Bad
    ].

%% Options come as a map.
options_that_are_no_map(_) ->
    ?assertEqual(
        [#{key => options, value => [{workers, 2}], expected => <<"a map of options">>}],
        errors("app:app", [{workers, 2}])
    ).

%% One answer names all that is wrong, sorted by key, each with its value.
all_errors_at_once(_) ->
    Options = #{workers => 0, bind => "127.0.0.1:99999", timeout => soon, threads => 4},
    ?assertEqual(
        [
            {app, "no app"},
            {bind, "127.0.0.1:99999"},
            {timeout, soon},
            {workers, 0}
        ],
        [{Key, Value} || #{key := Key, value := Value} <- errors("no app", Options)]
    ),
    ?assertEqual(
        <<"a port from 0 to 65535 in place of \"127.0.0.1:99999\"">>,
        expected_of(bind, errors("app", Options))
    ).

%% An unknown key is an error, and a slip of the pen is recognised.
unknown_keys(_) ->
    Keys = [
        {worker, <<"a known option; did you mean the atom workers?">>},
        {lifepsan, <<"a known option; did you mean the atom lifespan?">>},
        {<<"bind">>, <<"a known option; did you mean the atom bind?">>},
        {"max_queu", <<"a known option; did you mean the atom max_queue?">>},
        {certificate_of_the_server, <<"a known option">>},
        {x, <<"a known option">>},
        {1, <<"a known option">>},
        {{bind, 1}, <<"a known option">>}
    ],
    [
        ?assertEqual({Key, Expected}, {Key, expected_of(Key, errors("app", #{Key => 1}))})
     || {Key, Expected} <- Keys
    ].

%% Options without effect are refused, unless they ask for what happens anyway.
unsupported_options(_) ->
    Defaults = hornbeam_config:defaults(),
    Keys = hornbeam_config:unsupported(),
    ?assertMatch({ok, _}, hornbeam_config:validate("app", maps:with(Keys, Defaults))),
    Others = maps:with(Keys, other_values()),
    ?assertEqual(lists:sort(Keys), maps:keys(Others)),
    Errors = errors("app", Others),
    ?assertEqual(maps:keys(Others), [Key || #{key := Key} <- Errors]),
    [
        ?assertMatch({_, {_, _}}, {Each, binary:match(Expected, <<"supports no other value">>)})
     || #{expected := Expected} = Each <- Errors
    ].

%% They are taken, and what is none of them is told.
websocket_options(_) ->
    Options = #{websocket_timeout => 1, websocket_ping => infinity,
                websocket_max_frame_size => infinity, websocket_compress => true},
    {ok, Config} = hornbeam_config:validate("app", Options),
    ?assertEqual(Options, maps:with(maps:keys(Options), Config)),
    Wrong = #{websocket_timeout => 0, websocket_ping => "20s", websocket_max_frame_size => 0,
              websocket_compress => deflate},
    ?assertEqual(lists:sort(maps:keys(Wrong)), [Key || #{key := Key} <- errors("app", Wrong)]).

%% Rules that need two options to be seen together.
rules_across_options(_) ->
    ?assertEqual(
        <<"at least twice the heartbeat">>,
        expected_of(stall_timeout, errors("app", #{heartbeat => 1000, stall_timeout => 1999}))
    ),
    Twice = #{heartbeat => 1000, stall_timeout => 2000},
    ?assertMatch({ok, _}, hornbeam_config:validate("app", Twice)),
    ?assertMatch({ok, _}, hornbeam_config:validate("app", Twice#{stall_timeout := infinity})),
    Both = #{venv => ".venv", python => "/usr/bin/python3"},
    ?assertMatch([#{key := python}], errors("app", Both)),
    {ok, Config} = hornbeam_config:validate("app", #{}),
    Tls = #{ssl => true, certfile => <<"a">>},
    {ok, Address} = hornbeam_bind:read(<<"127.0.0.1:80">>),
    {ok, Unix} = hornbeam_bind:read(<<"unix:/a">>),
    Rules = [
        {#{max_requests_jitter => 5}, [max_requests_jitter]},
        {#{max_requests_jitter => 5, max_requests => 10}, []},
        {#{ssl => true}, [certfile]},
        {#{certfile => <<"a">>}, [certfile]},
        {
            #{keyfile => <<"a">>, password => <<"b">>, sni => [{<<"a">>, #{}}]},
            [keyfile, password, sni]
        },
        {#{verify => verify_peer, cacertfile => <<"a">>}, [cacertfile, verify]},
        {#{ssl_redirect => {[Address], 443}}, [ssl_redirect]},
        {Tls, []},
        {Tls#{verify => verify_peer}, [cacertfile]},
        {Tls#{verify => verify_peer, cacertfile => <<"b">>}, []},
        {Tls#{cacertfile => <<"b">>}, [verify]},
        {Tls#{ssl_redirect => {[Address], bound}}, []},
        {Tls#{ssl_redirect => {[Address], bound}, bind => [Address]}, [ssl_redirect]},
        {Tls#{ssl_redirect => {[Address], bound}, bind => [Unix]}, [ssl_redirect]},
        {Tls#{ssl_redirect => {[Address], 443}, bind => [Unix]}, []}
    ],
    [
        ?assertEqual({Given, Keys}, {Given, keys_together(maps:merge(Config, Given))})
     || {Given, Keys} <- Rules
    ].

%% The environment of the application beats the defaults, the call beats both.
environment_stands_between(_) ->
    application:set_env([{hornbeam, [{workers, 3}, {timeout, 1000}]}]),
    {ok, Config} = hornbeam_config:validate("app", #{timeout => 2000}),
    ?assertMatch(#{workers := 3, timeout := 2000, threads := 8}, Config),
    application:set_env(hornbeam, workers, many),
    ?assertMatch([#{key := workers, value := many}], errors("app", #{})),
    ?assertMatch({ok, _}, hornbeam_config:validate("app", #{workers => 1})).

%% A slip in sys.config is found too; what OTP keeps there itself is none.
unknown_keys_of_the_environment(_) ->
    application:set_env(hornbeam, included_applications, []),
    ?assertMatch({ok, _}, hornbeam_config:validate("app", #{})),
    application:set_env(hornbeam, worker, 3),
    ?assertMatch([#{key := worker, value := 3}], errors("app", #{})).

%% Neither what is shown of a configuration nor an error tells a secret.
secrets_are_masked(_) ->
    {ok, Config} = hornbeam_config:validate("app", #{env => #{"KEY" => "s3cret"}}),
    Masked = hornbeam_config:mask(Config#{password := <<"s3cret">>}),
    ?assertMatch(#{env := #{<<"KEY">> := <<"***">>}, password := <<"***">>}, Masked),
    ?assertEqual(undefined, map_get(password, hornbeam_config:mask(Config))),
    Host = #{certfile => <<"a">>, keyfile => undefined, password => <<"s3cret">>},
    ?assertEqual(
        [{<<"a">>, Host#{password := <<"***">>}}, {<<"b">>, Host#{password := undefined}}],
        map_get(
            sni,
            hornbeam_config:mask(Config#{
                sni := [{<<"a">>, Host}, {<<"b">>, Host#{password := undefined}}]
            })
        )
    ),
    Typo = #{sni => [{"a", #{certfile => "a", keyfiel => "b", password => "s3cret"}}]},
    [#{key := sni, value := Shown}] = errors("app", Typo),
    ?assertEqual(nomatch, string:find(io_lib:format("~p", [Shown]), "s3cret")),
    Errors = errors("app", #{password => [s3cret], env => #{"K=" => "s3cret"}}) ++
        errors("app", #{env => [{"K=", "s3cret"}]}),
    ?assertEqual(3, length(Errors)),
    ?assertEqual(nomatch, string:find(io_lib:format("~tp", [Errors]), "s3cret")).

%% A bare name is looked up in PATH.
python_from_path(_) ->
    ?assertEqual({ok, os:find_executable("python3")}, python(#{})),
    ?assertEqual(
        {error, {python_not_found, #{python => <<"no-such-python">>}}},
        python(#{python => "no-such-python"})
    ).

%% A path is taken as it is, and must be that of an executable file.
python_by_path(Config) ->
    Folder = proplists:get_value(priv_dir, Config),
    Python = make_executable(filename:join(Folder, "mein-pythön")),
    ?assertEqual({ok, Python}, python(#{python => Python})),
    ok = file:change_mode(Python, 8#644),
    ?assertMatch({error, {python_not_found, #{python := _}}}, python(#{python => Python})),
    ?assertMatch({error, {python_not_found, _}}, python(#{python => Folder})),
    ?assertMatch({error, {python_not_found, _}}, python(#{python => Python ++ "/none"})).

%% A virtual environment gives its own interpreter, and a broken one is an error.
python_of_a_venv(Config) ->
    Venv = filename:join(proplists:get_value(priv_dir, Config), "venv"),
    ?assertEqual(
        {error,
            {venv_not_found, #{
                venv => list_to_binary(Venv), python => list_to_binary(Venv ++ "/bin/python")
            }}},
        python(#{venv => Venv})
    ),
    Python = make_executable(filename:join([Venv, "bin", "python"])),
    ?assertEqual({ok, Python}, python(#{venv => Venv})),
    ?assertMatch({error, {venv_not_found, _}}, python(#{venv => Venv, python => "python3.99"})),
    Other = make_executable(filename:join([Venv, "bin", "python3.99"])),
    ?assertEqual({ok, Other}, python(#{venv => Venv, python => "python3.99"})).

%% Internal.

errors(App, Options) ->
    {error, {invalid_options, #{errors := Errors}}} = hornbeam_config:validate(App, Options),
    Errors.

expected_of(Key, Errors) ->
    [Expected] = [Expected || #{key := K, expected := Expected} <- Errors, K =:= Key],
    Expected.

keys_together(Config) ->
    [Key || {Key, _, _} <- hornbeam_option:check_together(Config)].

check_edges({Key, Min, Max}) ->
    [?assertEqual({ok, Value}, hornbeam_option:check(Key, Value)) || Value <- [Min, Max]],
    [
        ?assertMatch({Key, {error, _}}, {Key, hornbeam_option:check(Key, Value)})
     || Value <- [Min - 1, Max + 1, float(Min), integer_to_list(Min)]
    ].

times() ->
    [
        lifespan_timeout,
        timeout,
        keepalive,
        header_timeout,
        body_timeout,
        send_timeout,
        shutdown_timeout,
        queue_timeout,
        stall_timeout,
        websocket_timeout,
        websocket_ping
    ].

%% For options that are off: a valid value that would turn them on.
other_values() ->
    #{
        max_requests => 10,
        max_requests_jitter => 1,
        max_memory => 1073741824,
        http_version => ['HTTP/1.1'],
        access_log => json,
        routes => [{'_', []}],
        hooks => #{on_error => fun() -> ok end},
        mounts => [{"/", "app", #{}}],
        status_path => "/status",
        metrics_path => "/metrics"
    }.

cores() ->
    case erlang:system_info(logical_processors_available) of
        unknown -> erlang:system_info(schedulers_online);
        Cores -> Cores
    end.

python(Options) ->
    {ok, Config} = hornbeam_config:validate("app", Options),
    hornbeam_config:python_executable(Config).

make_executable(Path) ->
    ok = filelib:ensure_dir(Path),
    ok = file:write_file(Path, "#!/bin/sh\n"),
    ok = file:change_mode(Path, 8#755),
    Path.
