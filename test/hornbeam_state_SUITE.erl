%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_state_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).

-export([set_get_delete/1]).
-export([any_term_is_a_key/1]).
-export([counting/1]).
-export([counting_what_is_no_number/1]).
-export([large_numbers/1]).
-export([counting_from_many_processes/1]).
-export([encoded_values_rest_as_they_are/1]).
-export([encoded_integers_can_be_counted/1]).
-export([encoded_values_do_not_hold_their_packet/1]).
-export([time_to_live/1]).
-export([counter_that_expires/1]).
-export([expired_rows_are_removed/1]).
-export([outlives_its_process/1]).
-export([callers_mistakes/1]).
-export([stray_message/1]).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        set_get_delete,
        any_term_is_a_key,
        counting,
        counting_what_is_no_number,
        large_numbers,
        counting_from_many_processes,
        encoded_values_rest_as_they_are,
        encoded_integers_can_be_counted,
        encoded_values_do_not_hold_their_packet,
        time_to_live,
        counter_that_expires,
        expired_rows_are_removed,
        outlives_its_process,
        callers_mistakes,
        stray_message
    ].

init_per_suite(Config) ->
    hornbeam_test_suite:start_node(Config).

end_per_suite(Config) ->
    hornbeam_test_suite:stop_node(Config).

%% What was set is there until it is deleted.
set_get_delete(_) ->
    Key = make_ref(),
    ?assertEqual(undefined, hornbeam_state:get(Key)),
    ?assertEqual(none, hornbeam_state:get(Key, none)),
    [
        begin
            ok = hornbeam_state:set(Key, Value),
            ?assertEqual(Value, hornbeam_state:get(Key, none))
        end
     || Value <- [1, -1, 1.5, atom, undefined, <<"bytes">>, "list", {a, [b]}, #{k => v}, self()]
    ],
    ?assert(hornbeam_state:delete(Key)),
    ?assertNot(hornbeam_state:delete(Key)),
    ?assertEqual(undefined, hornbeam_state:get(Key)).

%% Also those that a table could take for something else.
any_term_is_a_key(_) ->
    Keys = ['_', '$1', {'_', '$1'}, [], {}, #{}, 1, 1.0, <<>>, <<"1">>, "1", {encoded, <<>>}],
    [ok = hornbeam_state:set({?FUNCTION_NAME, Key}, {is, Key}) || Key <- Keys],
    [?assertEqual({is, Key}, hornbeam_state:get({?FUNCTION_NAME, Key})) || Key <- Keys],
    [?assert(hornbeam_state:delete({?FUNCTION_NAME, Key})) || Key <- Keys].

%% What is not there counts as 0.
counting(_) ->
    Key = make_ref(),
    ?assertEqual({ok, 1}, hornbeam_state:incr(Key)),
    ?assertEqual({ok, 6}, hornbeam_state:incr(Key, 5)),
    ?assertEqual({ok, -4}, hornbeam_state:incr(Key, -10)),
    ?assertEqual(-4, hornbeam_state:get(Key)),
    ok = hornbeam_state:set(Key, 40),
    ?assertEqual({ok, 42}, hornbeam_state:incr(Key, 2)).

%% The value stays what it is.
counting_what_is_no_number(_) ->
    Key = make_ref(),
    [
        begin
            ok = hornbeam_state:set(Key, Value),
            ?assertEqual({error, not_an_integer}, hornbeam_state:incr(Key)),
            ?assertEqual(Value, hornbeam_state:get(Key))
        end
     || Value <- [<<"1">>, 1.0, [], {1}]
    ].

%% Numbers have no size.
large_numbers(_) ->
    Key = make_ref(),
    Large = 1 bsl 200,
    ok = hornbeam_state:set(Key, Large),
    ?assertEqual({ok, Large + 1}, hornbeam_state:incr(Key)),
    ?assertEqual({ok, 1}, hornbeam_state:incr(Key, -Large)).

%% No step gets lost.
counting_from_many_processes(_) ->
    Key = make_ref(),
    Counters = [
        spawn_monitor(fun() -> [{ok, _} = hornbeam_state:incr(Key) || _ <- lists:seq(1, 1000)] end)
     || _ <- lists:seq(1, 8)
    ],
    [receive {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason) end
     || {Pid, Monitor} <- Counters],
    ?assertEqual(8000, hornbeam_state:get(Key)).

%% What Python wrote comes back byte for byte, and is readable here.
encoded_values_rest_as_they_are(_) ->
    Key = make_ref(),
    %% Python's bytes: bits of a whole number of bytes, which this side would write otherwise.
    Encoded = <<131, 77, 3:32, 8, "abc">>,
    ok = set_encoded(Key, Encoded, undefined),
    ?assertEqual(Encoded, get_encoded(Key)),
    ?assertEqual(<<"abc">>, hornbeam_state:get(Key)),
    ok = hornbeam_state:set(Key, {x, 1}),
    ?assertEqual({x, 1}, binary_to_term(get_encoded(Key))),
    ?assertEqual(undefined, get_encoded(make_ref())).

%% Whoever wrote it, and however large it is.
encoded_integers_can_be_counted(_) ->
    Key = make_ref(),
    [
        begin
            ok = set_encoded(Key, term_to_binary(Integer), undefined),
            ?assertEqual({ok, Integer + 1}, hornbeam_state:incr(Key)),
            ?assertEqual(Integer + 1, binary_to_term(get_encoded(Key)))
        end
     || Integer <- [0, 255, 256, -1, 1 bsl 31, -(1 bsl 40), 1 bsl 3000]
    ].

%% A small value does not keep the packet alive in which it came.
encoded_values_do_not_hold_their_packet(_) ->
    Key = make_ref(),
    Encoded = term_to_binary(binary:copy(<<"x">>, 100)),
    <<Part:(byte_size(Encoded))/binary, _/binary>> =
        <<Encoded/binary, (binary:copy(<<"y">>, 100000))/binary>>,
    ok = set_encoded(Key, Part, undefined),
    ?assertEqual(byte_size(Encoded), binary:referenced_byte_size(get_encoded(Key))).

%% A value is there for its time and no longer; setting it anew sets its time anew.
time_to_live(_) ->
    [Short, Long, Over, Kept] = [make_ref() || _ <- lists:seq(1, 4)],
    ok = hornbeam_state:set(Long, 2, 60000),
    ok = hornbeam_state:set(Over, 3, 0),
    ok = hornbeam_state:set(Kept, 4, 20),
    ok = hornbeam_state:set(Kept, 4),
    ?assertEqual(undefined, hornbeam_state:get(Over)),
    ?assertNot(hornbeam_state:delete(Over)),
    StartMs = erlang:monotonic_time(millisecond),
    ok = hornbeam_state:set(Short, 1, 20),
    ok = watch(Short, 1, StartMs + 20),
    ?assertEqual(undefined, get_encoded(Short)),
    ?assertEqual([2, 4], [hornbeam_state:get(Key) || Key <- [Long, Kept]]).

%% It begins anew, for ever.
counter_that_expires(_) ->
    Key = make_ref(),
    {ok, Counted} = hornbeam_test_wait:within(20, fun() ->
        ok = hornbeam_state:set(Key, 10, 20),
        hornbeam_state:incr(Key)
    end),
    ?assertEqual(11, Counted),
    hornbeam_test_wait:until(fun() -> hornbeam_state:get(Key) =:= undefined end),
    ?assertEqual({ok, 1}, hornbeam_state:incr(Key)).

%% Not only hidden.
expired_rows_are_removed(_) ->
    ok = sys:suspend(hornbeam_state),
    [ok = hornbeam_state:set({?FUNCTION_NAME, N}, N, 1) || N <- lists:seq(1, 100)],
    %% By what is in the tables: readers do not see rows that have expired.
    Names = [element(1, hornbeam_state_table:name({?FUNCTION_NAME, N})) || N <- lists:seq(1, 100)],
    Rows = fun() -> length([Name || Name <- Names, ets:member(hornbeam_state, Name)]) end,
    ?assertEqual(100, Rows()),
    ok = sys:resume(hornbeam_state),
    hornbeam_test_wait:until(fun() -> Rows() =:= 0 end).

%% The values are the application's, not the process's.
outlives_its_process(_) ->
    Key = make_ref(),
    ok = hornbeam_state:set(Key, kept),
    Servers = whereis(hornbeam_servers_sup),
    Old = whereis(hornbeam_state),
    exit(Old, kill),
    IsNew = fun() -> not lists:member(whereis(hornbeam_state), [Old, undefined]) end,
    hornbeam_test_wait:until(IsNew),
    ?assertEqual(kept, hornbeam_state:get(Key)),
    %% Servers do not end with it.
    ?assertEqual(Servers, whereis(hornbeam_servers_sup)).

%% What makes no sense is the caller's error.
callers_mistakes(_) ->
    ?assertError(function_clause, hornbeam_state:incr(key, 1.0)),
    ?assertError(function_clause, hornbeam_state:set(key, 1, -1)),
    ?assertError(function_clause, hornbeam_state:set(key, 1, soon)).

%% A message from nowhere is noted, and no more.
stray_message(_) ->
    ok = hornbeam_test_log:start(),
    Pid = whereis(hornbeam_state),
    Pid ! stray,
    hornbeam_test_wait:until(fun() -> hornbeam_test_log:reports(unexpected_message) =/= [] end),
    ?assertEqual(Pid, whereis(hornbeam_state)),
    ok = hornbeam_test_log:stop().

%% The value is there, to the moment from which on it is not. What is seen when that has passed
%% already may be either.
watch(Key, Value, ExpiresMs) ->
    case {hornbeam_state:get(Key), erlang:monotonic_time(millisecond) < ExpiresMs} of
        {Value, true} -> watch(Key, Value, ExpiresMs);
        {Seen, true} -> error({expired_too_soon, Seen});
        {_, false} -> hornbeam_test_wait:until(fun() -> hornbeam_state:get(Key) =:= undefined end),
                      ok
    end.

%% As for the workers.
set_encoded(Key, Encoded, TtlMs) ->
    hornbeam_state_table:put(hornbeam_state_table:name(Key), hornbeam_state:from_encoded(Encoded),
                             TtlMs).

get_encoded(Key) ->
    hornbeam_state:get_encoded(hornbeam_state_table:name(Key)).
