%% SPDX-License-Identifier: Apache-2.0
%% How the arguments of a node that serves one application are read. That it serves, and how it
%% ends, is tested from outside.
-module(hornbeam_cli_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([arguments_become_options/1]).
-export([empty_arguments_are_left_out/1]).
-export([workers_that_are_no_number/1]).
-export([options_win/1]).
-export([options_are_any_expression/1]).
-export([options_that_are_no_map/1]).
-export([wrong_number_of_arguments/1]).

all() ->
    [
        arguments_become_options,
        empty_arguments_are_left_out,
        workers_that_are_no_number,
        options_win,
        options_are_any_expression,
        options_that_are_no_map,
        wrong_number_of_arguments
    ].

%% Each argument has its option; the folder becomes absolute.
arguments_become_options(_) ->
    {ok, App, Options} = hornbeam_cli:read_arguments(
        ["shop:app", "shop", "127.0.0.1:9000", "2", ".venv/bin/python", ""]
    ),
    ?assertEqual("shop:app", App),
    ?assertEqual(
        #{
            chdir => filename:absname("shop"),
            bind => "127.0.0.1:9000",
            workers => 2,
            python => ".venv/bin/python"
        },
        Options
    ),
    ?assertMatch({ok, _}, hornbeam_config:validate(App, Options)).

%% An empty argument stands for the default.
empty_arguments_are_left_out(_) ->
    ?assertEqual({ok, "app", #{}}, hornbeam_cli:read_arguments(["app", "", "", "", "", ""])).

%% What is no number goes to the check of the options, whose error names it.
workers_that_are_no_number(_) ->
    {ok, App, Options} = hornbeam_cli:read_arguments(["app", "", "", "two", "", ""]),
    ?assertMatch(
        {error, {invalid_options, #{errors := [#{key := workers, value := "two"}]}}},
        hornbeam_config:validate(App, Options)
    ).

%% The map is the last word, and an environment of the user's brings its own interpreter.
options_win(_) ->
    Read = fun(Text) -> hornbeam_cli:read_arguments(["app", "", ":1", "2", "python3.99", Text]) end,
    ?assertEqual(
        {ok, "app", #{bind => ":2", workers => 2, python => "python3.99"}},
        Read("#{bind => \":2\"}")
    ),
    ?assertEqual(
        {ok, "app", #{bind => ":1", workers => 2, venv => "v"}}, Read("#{venv => \"v\"}")
    ),
    ?assertEqual(
        {ok, "app", #{bind => ":1", workers => 2, venv => "v", python => "p"}},
        Read("#{venv => \"v\", python => \"p\"}")
    ).

%% Funs and computed values are options too.
options_are_any_expression(_) ->
    ?assertEqual(
        {ok, "app", #{hooks => #{on_error => fun io:format/2}, timeout => 2000}},
        read_options("#{hooks => #{on_error => fun io:format/2}, timeout => 2 * 1000}")
    ).

%% The error says what was expected and what came.
options_that_are_no_map(_) ->
    Texts = [
        {"[{lifespan, on}]", "[{lifespan,on}]"},
        {"#{lifespan => }", "syntax error before: '}'"},
        {"#{lifespan => \"on}", "unterminated string"},
        {"1/0", "badarith"},
        {"x(", "syntax error"}
    ],
    [
        begin
            {error, Message} = read_options(Text),
            Said = unicode:characters_to_list(Message),
            ?assertMatch("the options are no Erlang map like #{lifespan => on}: " ++ _, Said),
            ?assertNotEqual({Text, nomatch}, {Text, string:find(Said, Part)})
        end
     || {Text, Part} <- Texts
    ].

%% What the scripts of the project never do.
wrong_number_of_arguments(_) ->
    {error, Message} = hornbeam_cli:read_arguments(["app"]),
    ?assertEqual(
        "six arguments are expected, not [\"app\"]", unicode:characters_to_list(Message)
    ).

%% Internal.

read_options(Text) ->
    hornbeam_cli:read_arguments(["app", "", "", "", "", Text]).
