%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_error_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([sentences/1]).
-export([every_name_has_a_sentence/1]).
-export([invalid_options_are_listed/1]).
-export([traceback_follows/1]).
-export([missing_facts/1]).
-export([unknown_terms/1]).
-export([long_values_are_cut/1]).

all() ->
    [
        sentences,
        every_name_has_a_sentence,
        invalid_options_are_listed,
        traceback_follows,
        missing_facts,
        unknown_terms,
        long_values_are_cut
    ].

%% Each reason reads as one sentence with its facts.
sentences(_) ->
    [?assertEqual(Sentence, format(Reason)) || {Reason, Sentence} <- table()].

%% The table above leaves out no name of the type.
every_name_has_a_sentence(_) ->
    Tested = [Name || {{Name, _}, _} <- table()] ++ [invalid_options, app_import_failed],
    ?assertEqual(lists:sort(names_of_the_type()), lists:usort(Tested)).

%% All that is wrong with the options stands in one answer.
invalid_options_are_listed(_) ->
    Errors = [
        #{key => workers, value => 0, expected => <<"an integer from 1 to 1024">>},
        #{key => {odd}, value => "über", expected => <<"a known option">>}
    ],
    ?assertEqual(
        <<"invalid options: workers is 0, expected an integer from 1 to 1024; "
            "{odd} is \"über\", expected a known option"/utf8>>,
        format({invalid_options, #{errors => Errors}})
    ).

%% The traceback of Python stands below the sentence, as Python wrote it.
traceback_follows(_) ->
    Facts = #{
        app => <<"shop:app">>,
        message => <<"No module named 'x'">>,
        traceback => <<"Traceback (most recent call last):\n  File \"shop.py\", line 1\n">>
    },
    ?assertEqual(
        <<"importing the application shop:app failed: No module named 'x'\n"
            "Traceback (most recent call last):\n  File \"shop.py\", line 1\n">>,
        format({app_import_failed, Facts})
    ),
    ?assertEqual(
        <<"importing the application shop:app failed: No module named 'x'">>,
        format({app_import_failed, maps:remove(traceback, Facts)})
    ).

%% A reason without its facts still gives a sentence.
missing_facts(_) ->
    [
        ?assertMatch({Name, {_, _}}, {Name, binary:match(format({Name, #{}}), <<" ">>)})
     || Name <- names_of_the_type() -- [invalid_options]
    ],
    ?assertEqual(<<"invalid options: #{}">>, format({invalid_options, #{}})),
    ?assertEqual(
        <<"invalid options: [oops|x]">>, format({invalid_options, #{errors => [[oops | x]]}})
    ).

%% Whatever else comes is printed as a term.
unknown_terms(_) ->
    Terms = [
        {{no_such_name, #{}}, <<"{no_such_name,#{}}">>},
        {eaddrinuse, <<"eaddrinuse">>},
        {{address_in_use, no_map}, <<"{address_in_use,no_map}">>},
        {{"text", #{}}, <<"{\"text\",#{}}">>},
        {<<255>>, <<"<<\"\xff\">>"/utf8>>},
        {[a | b], <<"[a|b]">>}
    ],
    [?assertEqual(Text, format(Term)) || {Term, Text} <- Terms].

%% A large value does not drown the message.
long_values_are_cut(_) ->
    Error = #{key => env, value => lists:seq(1, 100000), expected => <<"a map">>},
    Text = format({invalid_options, #{errors => [Error]}}),
    ?assert(byte_size(Text) < 400),
    ?assertMatch({_, _}, binary:match(Text, <<", expected a map">>)).

%% Internal.

table() ->
    [
        {
            {address_in_use, #{address => <<"127.0.0.1:80">>}},
            <<"the address 127.0.0.1:80 is in use by another program">>
        },
        {{already_started, #{name => shop}}, <<"a server named shop is running already">>},
        {
            {app_not_callable, #{app => <<"a:b">>, type => <<"int">>}},
            <<"the application a:b is no callable but of type int">>
        },
        {
            {app_not_found, #{app => <<"a:b">>, message => <<"no attribute 'b'">>}},
            <<"the application a:b was not found: no attribute 'b'">>
        },
        {
            {bind_failed, #{address => <<"1.2.3.4:80">>, message => <<"permission denied">>}},
            <<"listening on 1.2.3.4:80 failed: permission denied">>
        },
        {
            {chdir_failed, #{chdir => <<"/no">>, message => <<"No such file">>}},
            <<"changing the directory to /no failed: No such file">>
        },
        {
            {lifespan_failed, #{message => <<"no database">>}},
            <<"the application's startup failed: no database">>
        },
        {
            {interrupted, #{name => shop}},
            <<"the server named shop has ended or was started anew before that was done">>
        },
        {
            {lifespan_unsupported, #{message => <<"it returned">>}},
            <<"the application does not support lifespan, which the option lifespan => on "
                "requires: it returned">>
        },
        {
            {loop_unavailable, #{loop => uvloop, message => <<"not installed">>}},
            <<"the event loop uvloop is not available: not installed">>
        },
        {{not_started, #{name => default}}, <<"no server named default is running">>},
        {
            {python_not_found, #{python => <<"/usr/bin/pythön"/utf8>>}},
            <<"the Python interpreter /usr/bin/pythön was not found, or is not executable"/utf8>>
        },
        {
            {startup_timeout, #{timeout_ms => 30000}},
            <<"the application's startup took longer than 30000 ms">>
        },
        {{tls_failed, #{message => <<"no key">>}}, <<"setting up TLS failed: no key">>},
        {
            {tls_failed, #{option => keyfile, file => <<"/k.pem">>, message => <<"no key">>}},
            <<"setting up TLS failed: keyfile /k.pem: no key">>
        },
        {
            {tls_failed, #{
                option => certfile, host => <<"a.b">>, file => <<"/c.pem">>, message => <<"bad">>
            }},
            <<"setting up TLS failed: certfile of a.b /c.pem: bad">>
        },
        {
            {venv_not_found, #{venv => <<".v">>, python => <<".v/bin/python">>}},
            <<"the virtual environment .v is missing or broken: .v/bin/python is not there, "
                "or is not executable">>
        },
        {
            {worker_class_unsupported, #{worker_class => wsgi}},
            <<"the application does not have the interface wsgi that the option worker_class names">>
        },
        {
            {worker_exited, #{worker_id => 2, status => 139}},
            <<"worker 2 exited with status 139 before it was ready">>
        }
    ].

names_of_the_type() ->
    Ebin = filename:join(code:lib_dir(hornbeam), "ebin"),
    {ok, {_, [{abstract_code, {_, Forms}}]}} =
        beam_lib:chunks(filename:join(Ebin, "hornbeam_error"), [abstract_code]),
    [Union] = [Type || {attribute, _, type, {name, {type, _, union, Type}, []}} <- Forms],
    [Name || {atom, _, Name} <- Union].

format(Reason) ->
    unicode:characters_to_binary(hornbeam_error:format(Reason)).
