%% SPDX-License-Identifier: Apache-2.0
%% The count that a session and the fan-out process share, and who says what when.
-module(hornbeam_fanout_window_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).

-export([sixteen_frames/1]).
-export([cost_of_large_frames/1]).
-export([told_once_at_the_low_mark/1]).
-export([room_already_when_held/1]).
-export([room_already_when_kept/1]).
-export([reopened/1]).
-export([nobody_is_forgotten/1]).

all() ->
    [
        sixteen_frames,
        cost_of_large_frames,
        told_once_at_the_low_mark,
        room_already_when_held,
        room_already_when_kept,
        reopened,
        nobody_is_forgotten
    ].

sixteen_frames(_) ->
    Window = hornbeam_fanout_window:new(),
    ok = fill(Window),
    ok = hornbeam_fanout_window:taken(Window, 1),
    ?assert(hornbeam_fanout_window:admit(Window, 1)),
    ?assertNot(hornbeam_fanout_window:admit(Window, 1)).

%% They go when little else is under way, however large.
cost_of_large_frames(_) ->
    Cost = fun(Bytes) -> hornbeam_fanout_window:cost(<<0:Bytes/unit:8>>) end,
    ?assertEqual([1, 1, 2, 17], lists:map(Cost, [0, 65535, 65536, 1048576])),
    Window = hornbeam_fanout_window:new(),
    ?assert(hornbeam_fanout_window:admit(Window, 17)),
    ?assertNot(hornbeam_fanout_window:admit(Window, 1)),
    ok = hornbeam_fanout_window:taken(Window, 17),
    [?assert(hornbeam_fanout_window:admit(Window, 3)) || _ <- [1, 2, 3]],
    ?assertNot(hornbeam_fanout_window:admit(Window, 17)),
    ok = hornbeam_fanout_window:taken(Window, 3),
    ?assert(hornbeam_fanout_window:admit(Window, 17)).

%% And once more each time that the queue has gone on; not when there is none.
told_once_at_the_low_mark(_) ->
    Window = hornbeam_fanout_window:new(),
    ok = fill(Window),
    wait = hornbeam_fanout_window:hold(Window),
    ?assertEqual(lists:duplicate(7, ok) ++ [resume] ++ lists:duplicate(2, ok), take(Window, 10)),
    ?assert(hornbeam_fanout_window:is_told(Window)),
    ?assertNot(hornbeam_fanout_window:admit(Window, 1)),
    [?assert(hornbeam_fanout_window:admit_held(Window, 1)) || _ <- lists:seq(1, 10)],
    ?assertNot(hornbeam_fanout_window:admit_held(Window, 1)),
    ?assertEqual(wait, hornbeam_fanout_window:keep(Window)),
    ?assertNot(hornbeam_fanout_window:is_told(Window)),
    ?assertEqual(lists:duplicate(7, ok) ++ [resume], take(Window, 8)),
    ok = hornbeam_fanout_window:release(Window),
    ?assertEqual(lists:duplicate(8, ok), take(Window, 8)),
    ok = fill(Window).

%% The session has taken all between the refusal and the hold: nobody else would say it.
room_already_when_held(_) ->
    Window = hornbeam_fanout_window:new(),
    ok = fill(Window),
    ?assertEqual(lists:duplicate(16, ok), take(Window, 16)),
    ?assertEqual(go_on, hornbeam_fanout_window:hold(Window)),
    ?assert(hornbeam_fanout_window:admit_held(Window, 1)),
    ?assertEqual([ok], take(Window, 1)),
    ok = hornbeam_fanout_window:release(Window),
    ok = fill(Window).

%% The same between what it has said and the next wait.
room_already_when_kept(_) ->
    Window = hornbeam_fanout_window:new(),
    ok = fill(Window),
    wait = hornbeam_fanout_window:hold(Window),
    ?assertEqual([resume], [Said || Said <- take(Window, 16), Said =/= ok]),
    ?assertEqual(go_on, hornbeam_fanout_window:keep(Window)),
    ?assert(hornbeam_fanout_window:is_told(Window)).

%% Whatever was said; the count stays.
reopened(_) ->
    [begin
         Window = hornbeam_fanout_window:new(),
         ok = fill(Window),
         wait = hornbeam_fanout_window:hold(Window),
         _ = take(Window, Taken),
         ok = hornbeam_fanout_window:reopen(Window),
         [?assert(hornbeam_fanout_window:admit(Window, 1)) || _ <- lists:seq(1, Taken)],
         ?assertNot(hornbeam_fanout_window:admit(Window, 1)),
         ?assertEqual(lists:duplicate(16, ok), take(Window, 16))
     end || Taken <- [0, 7, 8, 16]].

%% Both sides at once, as fast as they can: one that waits is always told.
nobody_is_forgotten(_) ->
    Window = hornbeam_fanout_window:new(),
    Self = self(),
    Session = spawn_link(fun() -> take_for_ever(Window, Self) end),
    ok = send_all(Window, Session, 200000),
    unlink(Session),
    exit(Session, kill).

%%% Internal

%% There is room for exactly that many.
fill(Window) ->
    [?assert(hornbeam_fanout_window:admit(Window, 1)) || _ <- lists:seq(1, 16)],
    ?assertNot(hornbeam_fanout_window:admit(Window, 1)),
    ok.

take(Window, Count) ->
    [hornbeam_fanout_window:taken(Window, 1) || _ <- lists:seq(1, Count)].

take_for_ever(Window, Fanout) ->
    receive frame -> ok end,
    case hornbeam_fanout_window:taken(Window, 1) of
        ok -> ok;
        resume -> Fanout ! resume
    end,
    take_for_ever(Window, Fanout).

%% What the fan-out process does with one session and an endless queue of so many frames.
send_all(_, _, 0) ->
    ok;
send_all(Window, Session, Left) ->
    case hornbeam_fanout_window:admit(Window, 1) of
        true ->
            Session ! frame,
            send_all(Window, Session, Left - 1);
        false ->
            send_held(hornbeam_fanout_window:hold(Window), Window, Session, Left)
    end.

send_held(wait, Window, Session, Left) ->
    receive
        resume -> send_held(go_on, Window, Session, Left)
    after 5000 ->
        error({forgotten, Left})
    end;
send_held(go_on, Window, Session, Left) ->
    case hornbeam_fanout_window:admit_held(Window, 1) of
        true when Left > 1, Left rem 100 =/= 0 ->
            Session ! frame,
            send_held(go_on, Window, Session, Left - 1);
        true ->
            %% As if the queue were empty for once.
            Session ! frame,
            ok = hornbeam_fanout_window:release(Window),
            send_all(Window, Session, Left - 1);
        false ->
            send_held(hornbeam_fanout_window:keep(Window), Window, Session, Left)
    end.
