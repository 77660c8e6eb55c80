%% SPDX-License-Identifier: Apache-2.0
%% The shared state: every operation, its races, its memory, and the cost of keys by prefix.
-module(hornbeam_state_full_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([get_and_set/1]).
-export([keys_are_told_apart/1]).
-export([add_only_where_nothing_is/1]).
-export([compare_and_set/1]).
-export([compare_as_terms/1]).
-export([pop_takes/1]).
-export([update_reads_and_writes/1]).
-export([counting/1]).
-export([counting_large/1]).
-export([multi/1]).
-export([expired_at_once/1]).
-export([swept_in_the_background/1]).
-export([ttl_is_kept_or_renewed/1]).
-export([keys_by_prefix/1]).
-export([keys_cost_what_is_found/1]).
-export([keys_as_python_wrote_them/1]).
-export([unknown_atoms_are_named/1]).
-export([memory_is_accounted/1]).
-export([keys_are_copied/1]).
-export([memory_is_about_what_it_takes/1]).
-export([full_refuses/1]).
-export([full_of_expired_rows/1]).
-export([full_at_the_edge/1]).
-export([multi_all_or_none/1]).
-export([racing_add/1]).
-export([racing_pop/1]).
-export([racing_update/1]).
-export([racing_cas/1]).
-export([racing_incr_and_delete/1]).
-export([racing_for_memory/1]).
-export([racing_everything_keeps_the_account/1]).
-export([survives_its_server/1]).
-export([bad_options_of_the_node/1]).
-export([services/1]).

-import(hornbeam_test_parallel, [in_parallel/2]).

all() ->
    [
        get_and_set,
        keys_are_told_apart,
        add_only_where_nothing_is,
        compare_and_set,
        compare_as_terms,
        pop_takes,
        update_reads_and_writes,
        counting,
        counting_large,
        multi,
        expired_at_once,
        swept_in_the_background,
        ttl_is_kept_or_renewed,
        keys_by_prefix,
        keys_cost_what_is_found,
        keys_as_python_wrote_them,
        unknown_atoms_are_named,
        memory_is_accounted,
        keys_are_copied,
        memory_is_about_what_it_takes,
        full_refuses,
        full_of_expired_rows,
        full_at_the_edge,
        multi_all_or_none,
        racing_add,
        racing_pop,
        racing_update,
        racing_cas,
        racing_incr_and_delete,
        racing_for_memory,
        racing_everything_keeps_the_account,
        survives_its_server,
        bad_options_of_the_node,
        services
    ].

-define(LIMIT_BYTES, 20000).

init_per_suite(Config) ->
    _ = application:stop(hornbeam),
    Config.

end_per_suite(_) ->
    _ = application:stop(hornbeam),
    application:unset_env(hornbeam, state_max_memory).

init_per_testcase(bad_options_of_the_node, Config) ->
    Config;
init_per_testcase(Case, Config) ->
    case is_limited(Case) of
        true -> application:set_env(hornbeam, state_max_memory, ?LIMIT_BYTES);
        false -> application:unset_env(hornbeam, state_max_memory)
    end,
    {ok, _} = application:ensure_all_started(hornbeam),
    Config.

end_per_testcase(_, _) ->
    _ = application:stop(hornbeam),
    application:unset_env(hornbeam, state_max_memory).

is_limited(Case) ->
    lists:member(Case, [full_refuses, full_of_expired_rows, full_at_the_edge, multi_all_or_none,
                        racing_for_memory]).

%% Any term is a key, any term is a value.
get_and_set(_) ->
    Terms = [1, 1 bsl 80, 1.5, <<"text">>, <<>>, undefined, true, '_', '$1', [], {}, #{a => [1]},
             self(), make_ref(), "list", {key, <<"x">>}, <<5:3>>],
    [begin
         ?assertEqual(none, hornbeam_state:get(Term, none)),
         ok = hornbeam_state:set(Term, {value, Term}),
         ?assertEqual({value, Term}, hornbeam_state:get(Term)),
         ok = hornbeam_state:set(Term, Term),
         ?assertEqual(Term, hornbeam_state:get(Term, none))
     end || Term <- Terms],
    ?assertEqual(lists:sort(Terms), lists:sort(hornbeam_state:keys())),
    [?assert(hornbeam_state:delete(Term)) || Term <- Terms],
    [?assertNot(hornbeam_state:delete(Term)) || Term <- Terms],
    ?assertMatch(#{keys := 0, memory_bytes := 0}, hornbeam_state:info()).

%% What an ordered table holds for equal are keys apart.
keys_are_told_apart(_) ->
    Keys = [1, 1.0, <<"1">>, "1", '1', {1}, {1.0}, [1], [1.0], #{1 => 2}, #{1.0 => 2}],
    [ok = hornbeam_state:set(Key, {of_key, Key}) || Key <- Keys],
    [?assertEqual({of_key, Key}, hornbeam_state:get(Key)) || Key <- Keys],
    ?assertMatch(#{keys := 11}, hornbeam_state:info()).

add_only_where_nothing_is(_) ->
    ?assert(hornbeam_state:add(k, 1)),
    ?assertNot(hornbeam_state:add(k, 2)),
    ?assertEqual(1, hornbeam_state:get(k)),
    ?assert(hornbeam_state:add(short, a, 0)),
    ?assert(hornbeam_state:add(short, b, 100000)),
    ?assertNot(hornbeam_state:add(short, c, 100000)),
    ?assertEqual(b, hornbeam_state:get(short)).

compare_and_set(_) ->
    ?assertNot(hornbeam_state:cas(k, undefined, 1)),
    ok = hornbeam_state:set(k, 1),
    ?assertNot(hornbeam_state:cas(k, 2, 3)),
    ?assertNot(hornbeam_state:cas(k, 1.0, 3)),
    ?assert(hornbeam_state:cas(k, 1, {a, <<"b">>})),
    ?assertNot(hornbeam_state:cas(k, 1, 5)),
    ?assert(hornbeam_state:cas(k, {a, <<"b">>}, 7)),
    ?assertEqual(7, hornbeam_state:get(k)).

%% One value has several encodings: a list of bytes as Python and as Erlang write it.
compare_as_terms(_) ->
    Name = hornbeam_state_table:name(k),
    ok = hornbeam_state:set(k, [1, 2]),
    ?assert(hornbeam_state:cas_encoded(Name, <<131, 108, 2:32, 97, 1, 97, 2, 106>>, 5)),
    ?assertEqual(5, hornbeam_state:get(k)).

pop_takes(_) ->
    ?assertEqual(undefined, hornbeam_state:pop(k)),
    ?assertEqual(none, hornbeam_state:pop(k, none)),
    ok = hornbeam_state:set(k, v),
    ?assertEqual(v, hornbeam_state:pop(k, none)),
    ?assertEqual(none, hornbeam_state:pop(k, none)),
    ok = hornbeam_state:set(k, v, 0),
    ?assertEqual(none, hornbeam_state:pop(k, none)),
    ?assertNot(hornbeam_state:delete(k)).

update_reads_and_writes(_) ->
    Cons = fun(Tail) -> [x | Tail] end,
    ?assertEqual({ok, [x]}, hornbeam_state:update(k, Cons, [])),
    ?assertEqual({ok, [x, x]}, hornbeam_state:update(k, Cons, [])),
    ?assertEqual([x, x], hornbeam_state:get(k)),
    ?assertEqual({ok, undefined}, hornbeam_state:update(other, fun(Value) -> Value end)),
    ?assertError(oops, hornbeam_state:update(k, fun(_) -> error(oops) end)),
    ?assertEqual([x, x], hornbeam_state:get(k)).

counting(_) ->
    ?assertEqual({ok, 1}, hornbeam_state:incr(k)),
    ?assertEqual({ok, 11}, hornbeam_state:incr(k, 10)),
    ?assertEqual({ok, 10}, hornbeam_state:decr(k)),
    ?assertEqual({ok, -5}, hornbeam_state:decr(k, 15)),
    ?assertEqual(-5, hornbeam_state:get(k)),
    ok = hornbeam_state:set(k, <<"5">>),
    ?assertEqual({error, not_an_integer}, hornbeam_state:incr(k)),
    ok = hornbeam_state:set(k, 5, 0),
    ?assertEqual({ok, 2}, hornbeam_state:incr(k, 2)),
    %% Counted from nothing, it stays.
    ?assertMatch([_], ets:lookup(hornbeam_state, element(1, hornbeam_state_table:name(k)))),
    ?assertEqual([], ets:tab2list(hornbeam_state_expiry)).

%% Integers have no bound, but what they take counts.
counting_large(_) ->
    Large = 1 bsl 80000,
    ?assertEqual({ok, Large}, hornbeam_state:incr(k, Large)),
    ?assertEqual({ok, Large + 1}, hornbeam_state:incr(k)),
    #{memory_bytes := Bytes} = hornbeam_state:info(),
    ?assert(Bytes > 10000),
    ?assertEqual({ok, 1}, hornbeam_state:decr(k, Large)),
    #{memory_bytes := BytesAfter} = hornbeam_state:info(),
    ?assert(BytesAfter < 1000).

multi(_) ->
    ok = hornbeam_state:set_multi(#{<<"a">> => 1, <<"b">> => <<"two">>, 3 => {c}}),
    ?assertEqual(
        #{<<"a">> => 1, <<"b">> => <<"two">>, 3 => {c}},
        hornbeam_state:get_multi([<<"a">>, none, 3, <<"b">>])
    ),
    ok = hornbeam_state:set_multi([{<<"a">>, 5}, {<<"a">>, 6}], 100000),
    ?assertEqual(6, hornbeam_state:get(<<"a">>)),
    ok = hornbeam_state:set_multi([{<<"a">>, 5}], 0),
    ?assertEqual(undefined, hornbeam_state:get(<<"a">>)),
    ok = hornbeam_state:set_multi([]).

%% No reader sees what has expired, in none of the functions, though it is not swept yet.
expired_at_once(_) ->
    ok = sys:suspend(hornbeam_state),
    Set = fun() -> ok = hornbeam_state:set(<<"k">>, 5, 0) end,
    Set(),
    ?assertEqual(none, hornbeam_state:get(<<"k">>, none)),
    ?assertEqual([], hornbeam_state:keys()),
    ?assertEqual([], hornbeam_state:keys(<<"k">>)),
    ?assertEqual(#{}, hornbeam_state:get_multi([<<"k">>])),
    ?assertNot(hornbeam_state:cas(<<"k">>, 5, 6)),
    ?assertEqual({ok, none}, hornbeam_state:update(<<"k">>, fun(Value) -> Value end, none)),
    Set(),
    ?assertNot(hornbeam_state:delete(<<"k">>)),
    Set(),
    ?assertEqual({ok, 1}, hornbeam_state:incr(<<"k">>)),
    Set(),
    ?assert(hornbeam_state:add(<<"k">>, 7)),
    ok = sys:resume(hornbeam_state).

%% Nobody touches them and they go, counted, with all that they took; others stay.
swept_in_the_background(_) ->
    ok = hornbeam_state:set(stays, 1),
    ok = hornbeam_state:set(stays_long, 1, 100000),
    #{memory_bytes := Bytes} = hornbeam_state:info(),
    ok = hornbeam_state:set_multi([{{gone, N}, N} || N <- lists:seq(1, 500)], 1),
    hornbeam_test_wait:until(fun() -> maps:get(keys, hornbeam_state:info()) =:= 2 end),
    hornbeam_test_wait:until(fun() -> maps:get(expired, hornbeam_state:info()) =:= 500 end),
    ?assertMatch(#{memory_bytes := Bytes}, hornbeam_state:info()),
    ?assertEqual(1, ets:info(hornbeam_state_expiry, size)).

%% cas, incr and update keep the time, set begins anew; the index has one entry for each row.
ttl_is_kept_or_renewed(_) ->
    ok = hornbeam_state:set(<<"k">>, 5, 100000),
    [{Entry}] = ets:tab2list(hornbeam_state_expiry),
    true = hornbeam_state:cas(<<"k">>, 5, 6),
    {ok, 7} = hornbeam_state:incr(<<"k">>),
    {ok, 8} = hornbeam_state:update(<<"k">>, fun(Value) -> Value + 1 end),
    ?assertEqual([{Entry}], ets:tab2list(hornbeam_state_expiry)),
    [ok = hornbeam_state:set(<<"k">>, N, 200000) || N <- lists:seq(1, 100)],
    [{Later}] = ets:tab2list(hornbeam_state_expiry),
    ?assert(Later > Entry),
    ok = hornbeam_state:set(<<"k">>, 9),
    ?assertEqual([], ets:tab2list(hornbeam_state_expiry)).

keys_by_prefix(_) ->
    Keys = [<<"a">>, <<"a:">>, <<"a:1">>, <<"a:2">>, <<"a;">>, <<"b">>, <<"a:", 255>>,
            <<"a:", 255, 255>>, <<255>>, a, 1, {<<"a:">>}],
    ok = hornbeam_state:set_multi([{Key, 1} || Key <- Keys]),
    Expected = [<<"a:">>, <<"a:1">>, <<"a:2">>, <<"a:", 255>>, <<"a:", 255, 255>>],
    ?assertEqual(Expected, hornbeam_state:keys(<<"a:">>)),
    ?assertEqual([<<"a:2">>], hornbeam_state:keys(<<"a:2">>)),
    ?assertEqual([], hornbeam_state:keys(<<"a:3">>)),
    ?assertEqual([<<255>>], hornbeam_state:keys(<<255>>)),
    ?assertEqual(9, length(hornbeam_state:keys(<<>>))),
    ?assertEqual(12, length(hornbeam_state:keys())).

%% The reductions for 100 matches are the same whether 1000 other keys are there or 300000.
keys_cost_what_is_found(_) ->
    fill(0, 1000),
    ok = hornbeam_state:set_multi([{<<"m:", (key_text(N))/binary>>, N} || N <- lists:seq(1, 100)]),
    Small = reductions_of_keys(),
    fill(1000, 300000),
    Large = reductions_of_keys(),
    %% A walk would take one reduction or more for each of the 300000.
    ?assert(Large < 20000, {Small, Large}),
    ?assert(Large < 3 * Small, {Small, Large}).

fill(From, To) ->
    [ok = hornbeam_state:set(<<Side/binary, (key_text(N))/binary>>, N)
     || N <- lists:seq(From, To div 2), Side <- [<<"a:">>, <<"z:">>]],
    ok.

key_text(N) -> integer_to_binary(N).

reductions_of_keys() ->
    {reductions, Before} = process_info(self(), reductions),
    100 = length(hornbeam_state:keys(<<"m:">>)),
    {reductions, After} = process_info(self(), reductions),
    After - Before.

%% Bytes and text with the same bytes are one key; Python gets it as it was written last.
keys_as_python_wrote_them(_) ->
    Bytes = <<131, 77, 1:32, 8, "k">>,
    Text = <<131, 109, 1:32, "k">>,
    Tuple = <<131, 104, 2, 77, 1:32, 8, "a", 97, 1>>,
    One = hornbeam_blob:encode(1),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {{key, Bytes}, One, undefined})),
    ?assertEqual({ok, [Bytes]}, keys_for_python(<<"k">>)),
    ?assertEqual(1, hornbeam_state:get(<<"k">>)),
    ?assertEqual({ok, One}, hornbeam_services:call(state_get, {<<"k">>})),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {<<"k">>, One, undefined})),
    ?assertEqual({ok, [Text]}, keys_for_python(<<"k">>)),
    ?assertEqual({ok, true}, hornbeam_services:call(state_set, {{key, Tuple}, One, undefined})),
    ?assertEqual(1, hornbeam_state:get({<<"a">>, 1})),
    {ok, All} = keys_for_python(undefined),
    ?assertEqual(lists:sort([Text, Tuple]), lists:sort(All)),
    ok = hornbeam_state:set({erlang, 1}, 1),
    {ok, Three} = keys_for_python(undefined),
    ?assert(lists:member(term_to_binary({erlang, 1}), Three)).

keys_for_python(Prefix) ->
    {task, Task, infinity} = hornbeam_services:call(state_keys, {Prefix}),
    Task().

%% A value or a key may hold an atom that the node does not know; the error says which.
unknown_atoms_are_named(_) ->
    Name = <<"hornbeam_state_no_such_", "atom_at_all">>,
    Atom = <<119, (byte_size(Name)), Name/binary>>,
    Blob = <<131, 104, 2, 116, 1:32, 97, 1, 108, 1:32, 106, 106, Atom/binary>>,
    {ok, true} = hornbeam_services:call(state_set, {<<"k">>, Blob, undefined}),
    ?assertEqual({ok, Blob}, hornbeam_services:call(state_get, {<<"k">>})),
    ?assertError({unknown_atom, #{text := Name}}, hornbeam_state:get(<<"k">>)),
    ?assertEqual(
        {error, {unknown_atom, #{text => Name}}},
        hornbeam_services:call(state_get, {{key, Blob}})
    ),
    [?assertMatch({error, {undecodable, #{first_bytes := Bad}}},
                  hornbeam_services:call(state_get, {{key, Bad}}))
     || Bad <- [<<>>, <<131>>, <<131, 97>>, <<131, 97, 1, 0>>, <<1, 2>>, <<131, 109, 5:32, "x">>,
                term_to_binary(binary:copy(<<0>>, 1000), [compressed])],
        byte_size(Bad) =< 64],
    ?assertError(badarg, binary_to_existing_atom(Name)).

%% Every way to write and every way to remove: nothing is left on the account in the end.
memory_is_accounted(_) ->
    Sizes = [0, 1, 64, 65, 1000, 100000],
    [begin
         ok = hornbeam_state:set({k, Size}, binary:copy(<<"x">>, Size)),
         ok = hornbeam_state:set({k, Size}, binary:copy(<<"x">>, Size div 2), 100000),
         {ok, _} = hornbeam_state:update({k, Size}, fun(Value) -> <<Value/binary, "y">> end),
         false = hornbeam_state:add({k, Size}, nothing)
     end || Size <- Sizes],
    #{memory_bytes := Bytes} = hornbeam_state:info(),
    ?assert(Bytes > 50000 andalso Bytes < 60000, Bytes),
    [First | Rest] = [{k, Size} || Size <- Sizes],
    _ = hornbeam_state:pop(First),
    [true = hornbeam_state:delete(Key) || Key <- Rest],
    ?assertMatch(#{keys := 0, memory_bytes := 0}, hornbeam_state:info()),
    ?assertEqual([], ets:tab2list(hornbeam_state_expiry)).

%% A long key that came as a part of a large packet does not keep the packet.
keys_are_copied(_) ->
    Packet = binary:copy(<<"x">>, 1000000),
    <<Key:100/binary, _/binary>> = Packet,
    ok = hornbeam_state:set(Key, 1),
    [{Stored, _, _, _, _}] = ets:lookup(hornbeam_state, Key),
    ?assertEqual(100, binary:referenced_byte_size(Stored)).

%% The estimate is near what the runtime says that tables and binaries take.
memory_is_about_what_it_takes(_) ->
    [begin
         Real0 = real_bytes(),
         #{memory_bytes := Told0} = hornbeam_state:info(),
         [ok = hornbeam_state:set(<<"key", N:64, Size:32>>, rand:bytes(Size), TtlMs)
          || N <- lists:seq(1, 20000)],
         #{memory_bytes := Told} = hornbeam_state:info(),
         Ratio = (Told - Told0) / (real_bytes() - Real0),
         ct:pal("~b bytes, ttl ~p: estimate is ~.2f of what is taken", [Size, TtlMs, Ratio]),
         ?assert(Ratio > 0.7 andalso Ratio < 1.4, {Size, TtlMs, Ratio})
     end || Size <- [8, 60, 400], TtlMs <- [undefined, 1000000]].

real_bytes() ->
    _ = [erlang:garbage_collect(Pid) || Pid <- processes()],
    erlang:memory(ets) + erlang:memory(binary).

%% A write beyond the limit changes nothing, whatever writes; what makes room or takes none works.
full_refuses(_) ->
    Large = binary:copy(<<"x">>, 15000),
    ok = hornbeam_state:set(a, Large),
    ok = hornbeam_state:set(n, 1),
    Before = hornbeam_state:info(),
    Full = {error, {state_full, #{limit_bytes => ?LIMIT_BYTES}}},
    ?assertEqual(Full, hornbeam_state:set(b, Large)),
    ?assertEqual(Full, hornbeam_state:set(n, Large)),
    ?assertEqual(Full, hornbeam_state:add(b, Large)),
    ?assertEqual(Full, hornbeam_state:set_multi([{b, Large}])),
    ?assertEqual(Full, hornbeam_state:cas(n, 1, Large)),
    ?assertEqual(Full, hornbeam_state:update(n, fun(_) -> Large end)),
    ?assertEqual(Full, hornbeam_state:incr(n, 1 bsl 800000)),
    ?assertEqual(Full, hornbeam_state:incr(c, 1 bsl 800000)),
    ?assertEqual(Before, hornbeam_state:info()),
    ?assertEqual({ok, 2}, hornbeam_state:incr(n)),
    ok = hornbeam_state:set(a, binary:copy(<<"y">>, 15000)),
    true = hornbeam_state:delete(a),
    ok = hornbeam_state:set(b, Large),
    ?assertMatch(#{limit_bytes := ?LIMIT_BYTES}, hornbeam_state:info()),
    Blob = hornbeam_blob:encode(Large),
    ?assertEqual(Full, hornbeam_services:call(state_set, {<<"c">>, Blob, undefined})).

%% What has expired takes no room, though the sweep has not come by.
full_of_expired_rows(_) ->
    ok = sys:suspend(hornbeam_state),
    Large = binary:copy(<<"x">>, 15000),
    ok = hornbeam_state:set(a, Large, 0),
    ok = hornbeam_state:set(b, Large, 0),
    ok = hornbeam_state:set_multi([{c, Large}], 0),
    ?assert(hornbeam_state:add(d, Large)),
    ok = sys:resume(hornbeam_state).

%% Exactly the limit fits, a byte more does not.
full_at_the_edge(_) ->
    ok = hornbeam_state:set(<<"k">>, <<>>),
    #{memory_bytes := Bytes} = hornbeam_state:info(),
    Fits = ?LIMIT_BYTES - Bytes,
    ?assertMatch({error, _}, hornbeam_state:set(<<"k">>, binary:copy(<<"x">>, Fits + 1))),
    ok = hornbeam_state:set(<<"k">>, binary:copy(<<"x">>, Fits)),
    ?assertMatch(#{memory_bytes := ?LIMIT_BYTES}, hornbeam_state:info()),
    ?assertMatch({error, _}, hornbeam_state:incr(<<"n">>)).

multi_all_or_none(_) ->
    ok = hornbeam_state:set(a, 1),
    Before = hornbeam_state:info(),
    Pairs = [{a, 2}, {b, 2}, {c, binary:copy(<<"x">>, ?LIMIT_BYTES)}],
    ?assertMatch({error, {state_full, _}}, hornbeam_state:set_multi(Pairs)),
    ?assertEqual(Before, hornbeam_state:info()),
    ?assertEqual(#{a => 1}, hornbeam_state:get_multi([a, b, c])).

%% Of many who add one key, one does.
racing_add(_) ->
    [begin
         Results = in_parallel(20, fun(N) -> hornbeam_state:add({k, Round}, N) end),
         [Winner] = [N || {N, true} <- lists:zip(lists:seq(1, 20), Results)],
         ?assertEqual(Winner, hornbeam_state:get({k, Round}))
     end || Round <- lists:seq(1, 100)].

%% Of many who pop one value, one gets it.
racing_pop(_) ->
    [begin
         ok = hornbeam_state:set(k, Round),
         Results = in_parallel(20, fun(_) -> hornbeam_state:pop(k, none) end),
         ?assertEqual([Round], [Value || Value <- Results, Value =/= none])
     end || Round <- lists:seq(1, 100)].

%% No update of any process is lost.
racing_update(_) ->
    _ = in_parallel(16, fun(_) ->
        [{ok, _} = hornbeam_state:update(k, fun({N}) -> {N + 1} end, {0})
         || _ <- lists:seq(1, 200)]
    end),
    ?assertEqual({3200}, hornbeam_state:get(k)).

%% A lock made of compare and set is held by one at a time.
racing_cas(_) ->
    ok = hornbeam_state:set(lock, free),
    Inside = counters:new(1, []),
    _ = in_parallel(16, fun(N) ->
        [begin
             lock(N),
             ok = counters:add(Inside, 1, 1),
             1 = counters:get(Inside, 1),
             ok = counters:sub(Inside, 1, 1),
             true = hornbeam_state:cas(lock, {held, N}, free)
         end || _ <- lists:seq(1, 50)]
    end).

lock(N) ->
    case hornbeam_state:cas(lock, free, {held, N}) of
        true -> ok;
        false ->
            erlang:yield(),
            lock(N)
    end.

%% Each count is in exactly one of the values that were popped, or in what is left.
racing_incr_and_delete(_) ->
    Popped = in_parallel(16, fun
        (N) when N rem 2 =:= 0 ->
            [{ok, _} = hornbeam_state:incr(k) || _ <- lists:seq(1, 1000)],
            0;
        (_) ->
            lists:sum([hornbeam_state:pop(k, 0) || _ <- lists:seq(1, 1000)])
    end),
    ?assertEqual(8000, lists:sum(Popped) + hornbeam_state:get(k, 0)).

%% However many write at once, the limit holds at every moment.
racing_for_memory(_) ->
    Value = binary:copy(<<"x">>, 900),
    Used = in_parallel(16, fun(N) ->
        [begin
             _ = hornbeam_state:set({k, N, I rem 20}, Value),
             _ = I rem 7 =:= 0 andalso hornbeam_state:delete({k, N, I rem 5}),
             actual_bytes()
         end || I <- lists:seq(1, 100)]
    end),
    ?assert(lists:max(lists:append(Used)) =< ?LIMIT_BYTES),
    ?assertEqual(actual_bytes(), maps:get(memory_bytes, hornbeam_state:info())).

actual_bytes() ->
    lists:sum(ets:select(hornbeam_state, [{{'_', '_', '_', '$1', '_'}, [], ['$1']}])).

%% Whatever runs side by side, the account is what the rows say, and each row that expires is in
%% the index.
racing_everything_keeps_the_account(_) ->
    _ = in_parallel(12, fun(N) ->
        _ = rand:seed(exsss, N),
        [do_any(rand:uniform(10), {k, rand:uniform(4)}) || _ <- lists:seq(1, 2000)]
    end),
    %% What the index has expires within milliseconds: nothing changes while it is looked at.
    hornbeam_test_wait:until(fun() ->
        _ = hornbeam_state_table:sweep(),
        ets:info(hornbeam_state_expiry, size) =:= 0
    end),
    ?assertEqual(actual_bytes(), maps:get(memory_bytes, hornbeam_state:info())),
    Expiring = ets:select(hornbeam_state,
                          [{{'$1', '_', '$2', '_', '_'}, [{is_integer, '$2'}], [{{'$2', '$1'}}]}]),
    ?assertEqual([], Expiring -- [Entry || {Entry} <- ets:tab2list(hornbeam_state_expiry)]),
    [hornbeam_state:delete(Key) || Key <- hornbeam_state:keys()],
    ?assertMatch(#{keys := 0, memory_bytes := 0}, hornbeam_state:info()).

do_any(1, Key) -> hornbeam_state:set(Key, rand:bytes(rand:uniform(200)));
do_any(2, Key) -> hornbeam_state:set(Key, 1, rand:uniform(3) - 1);
do_any(3, Key) -> hornbeam_state:incr(Key);
do_any(4, Key) -> hornbeam_state:delete(Key);
do_any(5, Key) -> hornbeam_state:add(Key, 5, rand:uniform(3) - 1);
do_any(6, Key) -> hornbeam_state:update(Key, fun(Value) -> Value end, 0);
do_any(7, Key) -> hornbeam_state:set_multi([{Key, rand:bytes(100)}, {{k, 1}, 1}], 1);
do_any(8, Key) -> hornbeam_state:cas(Key, 1, <<"one">>);
do_any(9, Key) -> hornbeam_state:pop(Key);
do_any(10, _) -> hornbeam_state_table:sweep().

%% The table is not the server's; the sweep goes on.
survives_its_server(_) ->
    ok = hornbeam_state:set(k, v),
    Server = whereis(hornbeam_state),
    exit(Server, kill),
    hornbeam_test_wait:until(fun() ->
        not lists:member(whereis(hornbeam_state), [undefined, Server])
    end),
    ?assertEqual(v, hornbeam_state:get(k)),
    ok = hornbeam_state:set(other, v, 1),
    hornbeam_test_wait:until(fun() -> maps:get(keys, hornbeam_state:info()) =:= 1 end).

%% The application does not start with a limit that is none, and the server's start says so; in
%% the options of a server it is refused.
bad_options_of_the_node(_) ->
    _ = application:load(hornbeam),
    application:set_env(hornbeam, state_max_memory, 0),
    {error, Reason} = hornbeam:start("app:app", #{}),
    ?assertMatch({invalid_options, #{errors := [#{key := state_max_memory, value := 0}]}}, Reason),
    application:unset_env(hornbeam, state_max_memory),
    {error, Refused} = hornbeam:start("app:app", #{state_max_memory => 1000000}),
    ?assertMatch(
        {invalid_options, #{errors := [#{key := state_max_memory, expected := _}]}}, Refused
    ),
    ?assertNotEqual(nomatch, string:find(hornbeam:format_error(Refused), "environment")).

%% The functions of the protocol, as a worker calls them.
services(_) ->
    [One, Two] = [hornbeam_blob:encode(Value) || Value <- [<<"one">>, {two}]],
    Call = fun hornbeam_services:call/2,
    ?assertEqual({ok, undefined}, Call(state_get, {<<"k">>})),
    ?assertEqual({ok, true}, Call(state_add, {<<"k">>, One, undefined})),
    ?assertEqual({ok, false}, Call(state_add, {<<"k">>, Two, undefined})),
    ?assertEqual({ok, false}, Call(state_cas, {<<"k">>, Two, One})),
    ?assertEqual({ok, true}, Call(state_cas, {<<"k">>, One, Two})),
    ?assertEqual({ok, Two}, Call(state_pop, {<<"k">>})),
    ?assertEqual({ok, undefined}, Call(state_pop, {<<"k">>})),
    ?assertEqual({ok, true}, Call(state_set_multi, {[{<<"a">>, One}, {2, Two}], 100000})),
    ?assertEqual({ok, [Two, undefined, One]}, Call(state_get_multi, {[2, 3, <<"a">>]})),
    ?assertEqual({ok, 5}, Call(state_incr, {<<"n">>, 5})),
    ?assertEqual({ok, hornbeam_blob:encode(5)}, Call(state_get, {<<"n">>})),
    ?assertEqual({error, {not_an_integer, #{}}}, Call(state_incr, {<<"a">>, 1})),
    ?assertEqual({ok, true}, Call(state_delete, {<<"a">>})),
    ?assertEqual({ok, false}, Call(state_delete, {<<"a">>})),
    [?assertMatch({error, {unknown_function, #{function := Function, arity := _}}},
                  Call(Function, Args))
     || {Function, Args} <- [{state_get, {}}, {state_set, {<<"k">>, 1, undefined}},
                             {state_set, {<<"k">>, One, -1}}, {state_incr, {<<"k">>, 1.0}},
                             {state_keys, {1}}, {frobnicate, {1}}]].
