%% SPDX-License-Identifier: Apache-2.0
%% Certificates and names of TLS, and what a server with TLS leaves behind.
-module(hornbeam_tls_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([names_are_rfc4514/1]).
-export([names_of_odd_strings/1]).
-export([validity_of_both_centuries/1]).
-export([doubts/1]).
-export([no_bytes_are_a_crash/1]).
-export([handshake_has_an_end/1]).
-export([options_are_those_of_otp/1]).
-export([locations/1]).
-export([nothing_is_left/1]).
-export([start_fails_whole/1]).
-export([secrets_are_not_logged/1]).
-export([listener_killed/1]).
-export([failed_handshake_is_for_debugging/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        names_are_rfc4514,
        names_of_odd_strings,
        validity_of_both_centuries,
        doubts,
        no_bytes_are_a_crash,
        handshake_has_an_end,
        options_are_those_of_otp,
        locations,
        nothing_is_left,
        start_fails_whole,
        secrets_are_not_logged,
        listener_killed,
        failed_handshake_is_for_debugging
    ].

init_per_suite(Config) ->
    #{server_config := Server, client_config := Client} = public_key:pkix_test_data(#{
        server_chain => #{root => [key()], intermediates => [], peer => [key()]},
        client_chain => #{root => [key()], intermediates => [], peer => [key()]}
    }),
    {KeyType, KeyDer} = proplists:get_value(key, Server),
    Folder = proplists:get_value(priv_dir, Config),
    File = filename:join(Folder, "server.pem"),
    ok = file:write_file(
        File,
        public_key:pem_encode([
            {'Certificate', proplists:get_value(cert, Server), not_encrypted},
            {KeyType, KeyDer, not_encrypted}
        ])
    ),
    [{file, File}, {key, KeyDer}, {client, Client} | hornbeam_test_suite:start_node(Config)].

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

init_per_testcase(_, Config) ->
    hornbeam_test_suite:start_case(Config).

end_per_testcase(_, Config) ->
    hornbeam_test_suite:end_case(Config).

%% Last part first, and nothing in a value can be taken for structure.
names_are_rfc4514(_) ->
    Names = [
        {[[{cn, utf8("a")}]], <<"CN=a">>},
        {[[{o, utf8("x")}], [{cn, utf8("a")}]], <<"CN=a,O=x">>},
        {[[{o, utf8("x")}, {cn, utf8("a")}]], <<"O=x+CN=a">>},
        {[], <<>>},
        {[[{cn, utf8("")}]], <<"CN=">>},
        {[[{cn, utf8(" a ")}]], <<"CN=\\ a\\ ">>},
        {[[{cn, utf8(" ")}]], <<"CN=\\ ">>},
        {[[{cn, utf8("#a#")}]], <<"CN=\\#a#">>},
        {[[{cn, utf8("a,b+c\"d\\e<f>g;h")}]], <<"CN=a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h">>},
        {[[{cn, {16#0c, <<"a", 0>>}}]], <<"CN=a\\00">>}
    ],
    [?assertEqual({Name, Text}, {Name, subject(Name)}) || {Name, Text} <- Names].

%% Every kind of string that X.520 has, and what is none.
names_of_odd_strings(_) ->
    Zoe = <<"CN=Zo", 195, 171>>,
    Names = [
        {[[{cn, {16#13, <<"Zoe">>}}]], <<"CN=Zoe">>},
        {[[{cn, {16#14, <<"Zo", 235>>}}]], Zoe},
        {[[{cn, {16#16, <<"a@b">>}}]], <<"CN=a@b">>},
        {[[{cn, {16#1e, <<0, $Z, 0, $o, 0, 235>>}}]], Zoe},
        {[[{cn, {16#1c, <<$Z:32, $o:32, 235:32>>}}]], Zoe},
        {[[{cn, {16#0c, <<255>>}}]], <<"CN=#0c01ff">>},
        {[[{cn, {16#1e, <<0>>}}]], <<"CN=#1e0100">>},
        {[[{cn, {16#02, <<5>>}}]], <<"CN=#020105">>},
        {[[{<<16#2a, 3, 4>>, utf8("a")}]], <<"1.2.3.4=#0c0161">>},
        {[[{<<16#2b, 6, 1, 4, 1, 130, 55>>, utf8("a")}]], <<"1.3.6.1.4.1.311=#0c0161">>},
        {[[{<<16#88, 16#37>>, utf8("a")}]], <<"2.999=#0c0161">>},
        {[[{cn, {16#02, binary:copy(<<1>>, 200)}}]],
            <<"CN=#0281c8", (binary:copy(<<"01">>, 200))/binary>>}
    ],
    [?assertEqual({Name, Text}, {Name, subject(Name)}) || {Name, Text} <- Names].

%% Two digits of a year, or four.
validity_of_both_centuries(_) ->
    Times = [
        {{16#17, <<"491231235959Z">>}, {{2049, 12, 31}, {23, 59, 59}}},
        {{16#17, <<"500101000000Z">>}, {{1950, 1, 1}, {0, 0, 0}}},
        {{16#17, <<"000101000000Z">>}, {{2000, 1, 1}, {0, 0, 0}}},
        {{16#18, <<"20500101000000Z">>}, {{2050, 1, 1}, {0, 0, 0}}},
        {{16#18, <<"99991231235959Z">>}, {{9999, 12, 31}, {23, 59, 59}}}
    ],
    [
        ?assertEqual({Time, Time}, hornbeam_certificate:validity(certificate([], Coded, Coded)))
     || {Coded, Time} <- Times
    ].

%% In force from the first second to the last.
doubts(Config) ->
    File = list_to_binary(proplists:get_value(file, Config)),
    Source = #{certfile => File, keyfile => undefined, password => undefined},
    {ok, Identity} = hornbeam_identity:load(Source),
    Own = Identity#{validity := {{{2020, 1, 1}, {0, 0, 0}}, {{2020, 1, 2}, {0, 0, 0}}}},
    ?assertEqual(not_yet_valid, hornbeam_identity:doubt(Own, {{2019, 12, 31}, {23, 59, 59}})),
    ?assertEqual(none, hornbeam_identity:doubt(Own, {{2020, 1, 1}, {0, 0, 0}})),
    ?assertEqual(none, hornbeam_identity:doubt(Own, {{2020, 1, 2}, {0, 0, 0}})),
    ?assertEqual(expired, hornbeam_identity:doubt(Own, {{2020, 1, 2}, {0, 0, 1}})).

%% Each byte of a file changed, and each beginning of it: a value, whatever it is.
no_bytes_are_a_crash(Config) ->
    {ok, Text} = file:read_file(proplists:get_value(file, Config)),
    [{'Certificate', Der, _} | _] = public_key:pem_decode(Text),
    Pem = fun(Bytes) -> public_key:pem_encode([{'Certificate', Bytes, not_encrypted}]) end,
    Changed = [
        <<Before:N/binary, (Byte bxor 16#55), After/binary>>
     || N <- lists:seq(0, byte_size(Der) - 1),
        <<Before:N/binary, Byte, After/binary>> <- [Der]
    ],
    Cut = [binary:part(Text, 0, N) || N <- lists:seq(0, byte_size(Text), 7)],
    [
        ?assertMatch({Kind, _} when Kind =:= ok; Kind =:= error, hornbeam_pem:certificates(Each))
     || Each <- [Pem(Bytes) || Bytes <- Changed] ++ Cut
    ],
    [
        ?assertMatch(
            {Kind, _} when Kind =:= ok; Kind =:= error, hornbeam_pem:private_key(Each, undefined)
        )
     || Each <- Cut
    ].

%% Also where heads of requests have none.
handshake_has_an_end(_) ->
    ?assertEqual(10000, hornbeam_handshake:timeout_ms(#{header_timeout => 10000})),
    ?assertEqual(30000, hornbeam_handshake:timeout_ms(#{header_timeout => 40000})),
    ?assertEqual(30000, hornbeam_handshake:timeout_ms(#{header_timeout => infinity})).

%% The protocols of `http_version' alone are offered, the suites are all known.
options_are_those_of_otp(Config) ->
    [
        begin
            Given = (options(Config))#{http_version => Versions, verify => verify_none},
            {ok, #{options := Options}} = hornbeam_tls:load(Given),
            ?assertEqual(Names, proplists:get_value(alpn_preferred_protocols, Options)),
            ?assertEqual(9, length(proplists:get_value(ciphers, Options)))
        end
     || {Versions, Names} <- [
            {['HTTP/1.1', 'HTTP/2'], [<<"h2">>, <<"http/1.1">>]},
            {['HTTP/1.1'], [<<"http/1.1">>]},
            {['HTTP/2'], [<<"h2">>]}
        ]
    ].

%% Only what can stand in a URL gets there.
locations(_) ->
    Req = #{host => <<"a.b">>, path => <<"/p">>, qs => <<>>},
    ?assertEqual({ok, <<"https://a.b/p">>}, hornbeam_redirect:location(Req, 443)),
    ?assertEqual(
        {ok, <<"https://a.b:8443/p?x">>}, hornbeam_redirect:location(Req#{qs := <<"x">>}, 8443)
    ),
    Odd = Req#{path := <<"/\"<> \\", 127, 255>>},
    ?assertEqual(
        {ok, <<"https://a.b/%22%3C%3E%20%5C%7F%FF">>}, hornbeam_redirect:location(Odd, 443)
    ),
    Bad = [<<>>, <<"a\r\nb">>, <<"a b">>, <<"[::1">>, <<"[a.b/]">>, <<"a/b">>, <<"a@b">>],
    [?assertEqual(error, hornbeam_redirect:location(Req#{host := Host}, 443)) || Host <- Bad],
    ?assertEqual(error, hornbeam_redirect:location(Req#{path := <<"*">>}, 443)).

%% After requests, a half handshake and a stop.
nothing_is_left(Config) ->
    Port = hornbeam_test_server:start(Config, options(Config)),
    {ok, Half} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    ok = gen_tcp:send(Half, <<22, 3, 1, 2, 0>>),
    ?assertMatch(<<"HTTP/1.1 200", _/binary>>, ask(Port)),
    ok = hornbeam:stop(),
    ?assertMatch({error, _}, gen_tcp:recv(Half, 0)),
    ok = gen_tcp:close(Half).

%% No worker is started where the files are bad.
start_fails_whole(Config) ->
    Options = hornbeam_test_server:options(Config, (options(Config))#{certfile := "/no/file"}),
    ?assertEqual(
        {error,
            {tls_failed, #{
                option => certfile,
                file => <<"/no/file">>,
                message => <<"no such file or directory">>
            }}},
        hornbeam:start("paths:app", Options)
    ),
    ?assertEqual([], hornbeam_test_server:started(Config)).

%% A failing start is logged by Ranch and OTP with all that they have been given, and so is each
%% connection where the level is low enough.
secrets_are_not_logged(Config) ->
    #{level := Level} = logger:get_primary_config(),
    Served = hornbeam_test_server:start(Config, options(Config)),
    ok = logger:set_primary_config(level, debug),
    _ = ask(Served),
    ok = logger:set_primary_config(level, Level),
    ok = hornbeam:stop(),
    ?assert(is_logged({supervisor, progress}, tls_sender)),
    {ok, Taken} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Taken),
    Given = (options(Config))#{
        bind => "127.0.0.1:" ++ integer_to_list(Port), password => "s3cret-of-ours"
    },
    ?assertMatch(
        {error, {address_in_use, _}},
        hornbeam:start("paths:app", hornbeam_test_server:options(Config, Given))
    ),
    ok = gen_tcp:close(Taken),
    Events = hornbeam_test_log:events(),
    Logged = lists:flatten(io_lib:format("~w ~p", [Events, Events])),
    Key = lists:flatten(io_lib:format("~w", [proplists:get_value(key, Config)])),
    Secret = lists:flatten(io_lib:format("~w", [<<"s3cret-of-ours">>])),
    [
        ?assertEqual(nomatch, string:find(Logged, Text))
     || Text <- ["s3cret-of-ours", lists:droplast(tl(tl(Secret))), lists:sublist(Key, 3, 60)]
    ].

is_logged(Label, Text) ->
    Reports = [
        Report
     || #{msg := {report, #{label := Given} = Report}} <- hornbeam_test_log:events(),
        Given =:= Label
    ],
    string:find(io_lib:format("~w", [Reports]), atom_to_list(Text)) =/= nomatch.

%% A successor opens with what is in the files.
listener_killed(Config) ->
    Port = hornbeam_test_server:start(Config, options(Config)),
    Listener = hornbeam_test_server:sup_child(default, hornbeam_listener),
    exit(Listener, kill),
    hornbeam_test_wait:until(fun() ->
        try ask(Port) of
            <<"HTTP/1.1 200", _/binary>> -> true;
            _ -> false
        catch
            error:_ -> false
        end
    end).

%% One event, at a level that is off unless it is wanted.
failed_handshake_is_for_debugging(Config) ->
    #{level := Level} = logger:get_primary_config(),
    Port = hornbeam_test_server:start(Config, options(Config)),
    ok = logger:set_primary_config(level, debug),
    try
        {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
        ok = gen_tcp:send(Socket, <<22, 3, 1, 0, 4, 99, 0, 0, 0>>),
        {ok, <<21, _/binary>>} = gen_tcp:recv(Socket, 0),
        hornbeam_test_wait:until(fun() -> hornbeam_test_log:reports(handshake_failed) =/= [] end)
    after
        logger:set_primary_config(level, Level)
    end,
    ?assertMatch([#{client := {{127, 0, 0, 1}, _}}], hornbeam_test_log:reports(handshake_failed)),
    ?assertEqual([], hornbeam_test_log:at_least(warning)).

%% Internal.

key() ->
    {key, {namedCurve, secp256r1}}.

options(Config) ->
    #{
        ssl => true,
        certfile => proplists:get_value(file, Config),
        keyfile => undefined,
        password => undefined,
        cacertfile => undefined,
        sni => []
    }.

%% The head of a response, on a connection of its own.
ask(Port) ->
    {ok, Socket} = ssl:connect({127, 0, 0, 1}, Port, [
        binary, {active, false}, {verify, verify_none}, {log_level, none}
    ]),
    ok = ssl:send(Socket, "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    {ok, Data} = ssl:recv(Socket, 0),
    ok = ssl:close(Socket),
    Data.

utf8(Text) ->
    {16#0c, list_to_binary(Text)}.

subject(Name) ->
    Time = {16#17, <<"200101000000Z">>},
    hornbeam_subject:text(certificate(Name, Time, Time)).

%% As much of a certificate as is looked at.
certificate(Name, NotBefore, NotAfter) ->
    Subject = [
        der(16#31, [
            der(16#30, [der(16#06, [type(Type)]), der(Tag, [Value])])
         || {Type, {Tag, Value}} <- Set
        ])
     || Set <- Name
    ],
    {BeforeTag, Before} = NotBefore,
    {AfterTag, After} = NotAfter,
    Empty = der(16#30, []),
    ToBeSigned = [
        der(16#a0, [der(16#02, [<<2>>])]),
        der(16#02, [<<1>>]),
        Empty,
        Empty,
        der(16#30, [der(BeforeTag, [Before]), der(AfterTag, [After])]),
        der(16#30, Subject),
        Empty
    ],
    der(16#30, [der(16#30, ToBeSigned), Empty]).

type(cn) -> <<16#55, 4, 3>>;
type(o) -> <<16#55, 4, 10>>;
type(Bytes) -> Bytes.

der(Tag, Contents) ->
    hornbeam_certificate:encode({Tag, iolist_to_binary(Contents)}).
