%% SPDX-License-Identifier: Apache-2.0
%% What the functions that workers may call answer, as docs/protocol.md has it.
-module(hornbeam_services_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).

-export([get_set_delete/1]).
-export([time_to_live/1]).
-export([counting/1]).
-export([unknown_functions/1]).

all() ->
    [get_set_delete, time_to_live, counting, unknown_functions].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

%% Values go and come encoded.
get_set_delete(_) ->
    Key = {<<"key">>, 1},
    Encoded = <<131, 77, 1:32, 8, "x">>,
    ?assertEqual({ok, undefined}, hornbeam_services:call(state_get, {Key})),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {Key, Encoded, undefined})),
    ?assertEqual({ok, Encoded}, hornbeam_services:call(state_get, {Key})),
    ?assertEqual(<<"x">>, hornbeam_state:get(Key)),
    ?assertEqual({ok, true}, hornbeam_services:call(state_delete, {Key})),
    ?assertEqual({ok, false}, hornbeam_services:call(state_delete, {Key})).

%% In milliseconds.
time_to_live(_) ->
    Encoded = term_to_binary(x),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {key, Encoded, 0})),
    ?assertEqual({ok, undefined}, hornbeam_services:call(state_get, {key})),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {key, Encoded, 60000})),
    ?assertEqual({ok, Encoded}, hornbeam_services:call(state_get, {key})),
    ?assertEqual({ok, true}, hornbeam_services:call(state_delete, {key})).

%% A value that is no integer is told apart.
counting(_) ->
    ?assertEqual({ok, 2}, hornbeam_services:call(state_incr, {counter, 2})),
    ?assertEqual({ok, -1}, hornbeam_services:call(state_incr, {counter, -3})),
    ?assertEqual({ok, term_to_binary(-1)}, hornbeam_services:call(state_get, {counter})),
    {ok, true} = hornbeam_services:call(state_set, {counter, term_to_binary(<<"1">>), undefined}),
    ?assertEqual(
        {error, {not_an_integer, #{}}},
        hornbeam_services:call(state_incr, {counter, 1})
    ),
    {ok, true} = hornbeam_services:call(state_delete, {counter}).

%% Neither another name, nor another number or type of arguments.
unknown_functions(_) ->
    Calls = [
        {halt, {}},
        {state_get, {}},
        {state_get, {a, b}},
        {state_set, {key, not_encoded, undefined}},
        {state_set, {key, <<131, 97, 1>>, -1}},
        {state_set, {key, <<131, 97, 1>>, soon}},
        {state_incr, {key, 1.0}},
        {state_delete, {}}
    ],
    [
        ?assertEqual(
            {error, {unknown_function, #{function => Function, arity => tuple_size(Args)}}},
            hornbeam_services:call(Function, Args)
        )
     || {Function, Args} <- Calls
    ].
